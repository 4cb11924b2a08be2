"""The ASGI application: the API, and the page as static files."""

import asyncio
import contextlib
import copy
import functools
import io
import json
import mimetypes
import pathlib
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any, Final

from PIL import Image
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from agegender import __version__
from agegender.inference.images import ImageError
from agegender.inference.predictor import Predictor
from agegender.inference.results import Photograph
from agegender.server.batching import Answer, Batcher, Options, QueueFullError
from agegender.server.metrics import Metrics
from agegender.server.protection import Protection
from agegender.server.refusals import Refusal, RefusalResponse
from agegender.server.uploads import MAX_BODY_BYTES, MAX_FILE_BYTES, MAX_FILES, BodyReader, MemoryGauge, Upload
from agegender.synthetic.faces import draw_people

_HERE: Final = pathlib.Path(__file__).parent
_BOOLEANS: Final = {"true": True, "1": True, "false": False, "0": False}
_MIN_FACES: Final = (20, 2000)  # pixels
NOT_FOR: Final = (
    "It guesses from appearance and is often wrong. Do not use it to decide about people: not for checking ages, not "
    "for hiring, policing, selling or sorting."
)
LICENCE: Final = "A model trained on UTKFace or from VGGFace weights is for non-commercial research only."
# Drawn examples of the page: age, gender, race and seed of each person.
EXAMPLES: Final = (
    ((23, 1, 4, 39), (47, 0, 3, 36)),
    ((72, 0, 0, 2),),
    ((39, 0, 1, 22), (27, 1, 0, 1), (9, 1, 2, 6)),
)


def create_app(predictor: Predictor, *, allowed_hosts: Iterable[str] = (), root_path: str = "") -> Starlette:
    """Builds the server's ASGI application.

    Args:
        predictor: answers the images.
        allowed_hosts: further names of this server, as `Protection` takes them.
        root_path: the prefix under which a proxy forwards requests without removing it, such as "/faces". The page
            and the API answer with and without it.

    Returns:
        An application for uvicorn or another ASGI server.

    Raises:
        ValueError: if `root_path` is not a path.

    Example: `uvicorn.run(create_app(ag.Predictor()))`
    """
    if root_path and not (root_path.startswith("/") and root_path.strip("/")):
        raise ValueError(f'`root_path` must be a path such as "/faces". Received: root_path={root_path!r}')
    return _Server(predictor).build(allowed_hosts, root_path.rstrip("/"))


class _Server:
    """The endpoints, and what they share."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._metrics = Metrics()
        self._memory = MemoryGauge()
        self._batcher = Batcher(self._predict_files, self._metrics)

    def build(self, allowed_hosts: Iterable[str], root_path: str) -> Starlette:
        routes: list[BaseRoute] = [
            Route("/v1/predict", self._count("/v1/predict", self.predict), methods=["POST"]),
            Route("/v1/model", self.describe_model),
            Route("/healthz", self.check_health),
            Route("/metrics", self.show_metrics),
            Route("/openapi.json", self.show_openapi),
            Route("/examples/{number:int}.jpg", self.show_example),
            *_page_routes(),
        ]
        if root_path:
            redirect = Route(root_path, lambda _: RedirectResponse(f"{root_path}/"))
            routes = [redirect, Mount(root_path, routes=routes), *routes]
        app = Starlette(
            routes=routes,
            middleware=[Middleware(Protection, allowed_hosts=tuple(allowed_hosts))],
            exception_handlers={Refusal: _refuse, HTTPException: _refuse_http, Exception: _refuse_exception},
            lifespan=self._run,
        )
        app.router.redirect_slashes = False
        return app

    @contextlib.asynccontextmanager
    async def _run(self, _: Starlette) -> AsyncIterator[None]:
        async with self._batcher:
            # The first prediction takes longest; it should not be a visitor's.
            await self._batcher.submit([_draw_example(0)], Options())[0]
            yield

    async def predict(self, request: Request) -> Response:
        """POST /v1/predict."""
        options = _read_options(request)
        if options.flip is False and getattr(self._predictor.model, "flip", None):  # an ONNX file that always does
            raise Refusal(400, "`flip` must be true: this model always averages over mirror images.", unread=True)
        with BodyReader(request, self._memory) as reader:
            uploads, is_list = await reader.read()
            try:
                futures = self._batcher.submit([upload.data for upload in uploads], options)
            except QueueFullError as error:
                raise Refusal(503, str(error), retry_after=error.retry_after) from None
            answers = await _wait_for_answers(futures, request)
        contents = [self._describe(upload, answer) for upload, answer in zip(uploads, answers, strict=True)]
        if is_list:
            return JSONResponse(contents)
        return JSONResponse(contents[0], 200 if isinstance(answers[0], Photograph) else _status_of(answers[0]))

    async def describe_model(self, _: Request) -> Response:
        """GET /v1/model."""
        return JSONResponse(describe_model(self._predictor))

    async def check_health(self, _: Request) -> Response:
        """GET /healthz."""
        if not self._batcher.is_alive:
            raise Refusal(503, "The server has stopped answering images; start it again.")
        return JSONResponse({"status": "ok"})

    async def show_metrics(self, _: Request) -> Response:
        """GET /metrics."""
        return Response(self._metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def show_openapi(self, _: Request) -> Response:
        """GET /openapi.json."""
        return JSONResponse(_load_openapi())

    async def show_example(self, request: Request) -> Response:
        """GET /examples/N.jpg."""
        number = request.path_params["number"]
        if number >= len(EXAMPLES):
            raise HTTPException(404)
        return Response(_draw_example(number), media_type="image/jpeg")

    def _predict_files(self, files: Sequence[bytes], options: Options) -> Sequence[Answer]:
        return self._variant(options)(list(files), aligned=options.aligned)

    def _variant(self, options: Options) -> Predictor:
        """The predictor with other options; it shares the model."""
        variant = copy.copy(self._predictor)
        if options.flip is not None:
            variant.flip = options.flip
        if options.min_face is not None:
            variant.detector = copy.copy(variant.detector)
            variant.detector.min_face = options.min_face
        return variant

    def _describe(self, upload: Upload, answer: "Answer | Exception") -> dict[str, Any]:
        """The JSON of one image, and its counts."""
        name = upload.name or "image"
        if isinstance(answer, Photograph):
            self._metrics.images.labels("ok").inc()
            self._metrics.faces.inc(len(answer))
            return {**answer.to_dict(), "image": name}
        if isinstance(answer, ImageError):
            self._metrics.images.labels("unusable").inc()
            return {"image": name, "error": f"The file {answer.reason}."}
        self._metrics.images.labels("failed").inc()
        print(f"agegender serve: an image failed: {type(answer).__name__}: {answer}", file=sys.stderr, flush=True)
        return {"image": name, "error": "The server failed on this image."}

    def _count(self, path: str, endpoint: Callable[[Request], Any]) -> Callable[[Request], Any]:
        @functools.wraps(endpoint)
        async def counted(request: Request) -> Response:
            started = time.perf_counter()
            try:
                response = await endpoint(request)
            except Refusal as refusal:
                response = RefusalResponse(refusal)
            except ClientDisconnect:
                response = Response(status_code=499)  # which nobody receives; nginx counts them so
            self._metrics.requests.labels(path, response.status_code).inc()
            self._metrics.seconds.labels(path).observe(time.perf_counter() - started)
            return response

        return counted


def describe_model(predictor: Predictor) -> dict[str, Any]:
    """The model in short, for programs and for the page.

    Args:
        predictor: its model is described.

    Returns:
        What `GET /v1/model` answers.
    """
    calibration = predictor.calibration
    ages = calibration is not None and calibration.ages is not None
    return {
        "version": __version__,
        "outputs": sorted(predictor.heads),
        "input_size": predictor.image_size[1],
        "flip": predictor.flip,
        "calibration": {
            "age_interval_coverage": calibration.coverage if calibration is not None and ages else None,
            "gender_temperature": calibration.temperature if calibration is not None else None,
        },
        "limits": {
            "image_bytes": MAX_FILE_BYTES,
            "body_bytes": MAX_BODY_BYTES,
            "images_per_request": MAX_FILES,
        },
        "licence": LICENCE,
        "not_for": NOT_FOR,
    }


async def _wait_for_answers(futures: "Sequence[asyncio.Future[Answer]]", request: Request) -> list[Answer | Exception]:
    """The answers in order; if the client goes, its images are dropped."""
    answers = asyncio.gather(*futures, return_exceptions=True)
    answers.add_done_callback(lambda done: done.exception())  # else asyncio prints that it was cancelled
    gone = asyncio.create_task(_wait_for_disconnect(request))
    try:
        await asyncio.wait((answers, gone), return_when=asyncio.FIRST_COMPLETED)
        if not answers.done():
            raise ClientDisconnect
        return answers.result()  # type: ignore[return-value]
    finally:
        gone.cancel()
        answers.cancel()


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _read_options(request: Request) -> Options:
    given: dict[str, Any] = {}
    for name, value in request.query_params.multi_items():
        if name in given:
            raise Refusal(400, f"`{name}` is given twice.", unread=True)
        if name in ("aligned", "flip"):
            if value.lower() not in _BOOLEANS:
                raise Refusal(400, f"`{name}` must be true or false. Received: {value[:100]}", unread=True)
            given[name] = _BOOLEANS[value.lower()]
        elif name == "min_face":
            low, high = _MIN_FACES
            if not (value.isascii() and value.isdigit() and len(value) < 9 and low <= int(value) <= high):
                words = f"`min_face` must be a whole number of pixels, {low} to {high}. Received: {value[:100]}"
                raise Refusal(400, words, unread=True)
            given[name] = int(value)
        else:
            words = f"`{name[:100]}` is not an option; aligned, flip and min_face are."
            raise Refusal(400, words, unread=True)
    return Options(**given)


def _status_of(answer: ImageError | Exception) -> int:
    return 422 if isinstance(answer, ImageError) else 500


def _page_routes() -> list[Route]:
    """The files of the page, from memory: no path of a request reaches the disk."""
    routes = []
    for path in (_HERE / "static").iterdir():
        file = Response(path.read_bytes(), media_type=mimetypes.guess_type(path.name)[0])

        async def show_file(_: Request, file: Response = file) -> Response:
            return file

        routes.append(Route("/" if path.name == "index.html" else f"/{path.name}", show_file))
    return routes


@functools.cache
def _draw_example(number: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(draw_people(EXAMPLES[number])).save(file, "JPEG", quality=90)
    return file.getvalue()


@functools.cache
def _load_openapi() -> dict[str, Any]:
    document = json.loads((_HERE / "openapi.json").read_text("utf-8"))
    document["info"]["version"] = __version__
    return document


async def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return RefusalResponse(error)


async def _refuse_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentences = {404: "There is nothing at this path.", 405: f"This path does not take {request.method}."}
    return RefusalResponse(Refusal(error.status_code, sentences.get(error.status_code, error.detail), unread=True))


async def _refuse_exception(_: Request, error: Exception) -> Response:
    return RefusalResponse(Refusal(500, "The server failed on this request.", unread=True))
