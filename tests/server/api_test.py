"""The API as programs use it: answers are those of the Predictor, errors are one sentence."""

import asyncio
import concurrent.futures
import json
import pathlib
import re
import sys
import threading
import types
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema
import numpy as np
import pytest
from running_server import COUPLE, draw_noise, encode, load_released, run_server

import agegender as ag
from agegender.server import create_app
from agegender.server.refusals import Refusal, RefusalResponse

OCTETS = {"content-type": "application/octet-stream"}


@pytest.fixture(scope="module")
def predictor() -> ag.Predictor:
    return load_released()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with run_server(load_released(), root_path="/faces/") as address:
        yield address


def post(server: str, body: bytes, **options: Any) -> httpx.Response:
    return httpx.post(f"{server}/v1/predict", content=body, headers=OCTETS, params=options, timeout=60)


def assert_same(answer: dict, photograph: ag.Photograph) -> None:
    """Equal but for the last digits: batches of other sizes may add in another order."""
    expected = json.loads(json.dumps(photograph.to_dict()))
    assert (answer["width"], answer["height"]) == (expected["width"], expected["height"])
    assert len(answer["faces"]) == len(expected["faces"])
    for ours, theirs in zip(answer["faces"], expected["faces"], strict=True):
        assert ours.keys() == theirs.keys()
        assert (ours["gender"], ours["note"]) == (theirs["gender"], theirs["note"])
        for name in ("box", "age", "p_female", "age_interval", "score"):
            assert ours[name] == (None if theirs[name] is None else pytest.approx(theirs[name], abs=1e-3))


@pytest.mark.parametrize("media_type", ["image/png", "application/octet-stream", "IMAGE/PNG; charset=x", None])
def test_image_as_body_answers_as_predictor(server: str, predictor: ag.Predictor, media_type: str | None) -> None:
    headers = {} if media_type is None else {"content-type": media_type}
    response = httpx.post(f"{server}/v1/predict", content=encode(COUPLE), headers=headers, timeout=60)
    assert response.status_code == 200 and len(response.json()["faces"]) == 2
    assert_same(response.json(), predictor(encode(COUPLE)))


def test_multipart_keeps_order_and_errors(server: str, predictor: ag.Predictor) -> None:
    bodies = [encode(COUPLE), b"hello", draw_noise(1), encode(COUPLE)[:2000]]
    files = [("images", (f"{number}.png", body)) for number, body in enumerate(bodies)]
    answers = httpx.post(f"{server}/v1/predict", files=files, timeout=60).json()
    assert [answer["image"] for answer in answers] == ["0.png", "1.png", "2.png", "3.png"]
    assert_same(answers[0], predictor(bodies[0]))
    assert answers[2]["faces"] == []
    for broken in (1, 3):
        assert answers[broken].keys() == {"image", "error"}
        assert re.fullmatch(r"The file .*\.", answers[broken]["error"])


def test_options_change_the_answer_as_in_the_predictor(server: str, predictor: ag.Predictor) -> None:
    body = encode(COUPLE)
    assert_same(post(server, body, aligned="true").json(), predictor(body, aligned=True))
    plain = ag.Predictor(flip=False)
    assert_same(post(server, body, aligned="1", flip="false").json(), plain(body, aligned=True))
    for min_face, count in ((20, 2), (2000, 0), (None, 2)):  # the faces are 120 pixels wide
        options = {} if min_face is None else {"min_face": min_face}
        assert len(post(server, body, **options).json()["faces"]) == count


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("aligned=maybe", "`aligned` must be true or false. Received: maybe"),
        ("flip=", "`flip` must be true or false. Received: "),
        ("min_face=3", "`min_face` must be a whole number of pixels, 20 to 2000. Received: 3"),
        ("min_face=2001", "20 to 2000. Received: 2001"),
        ("min_face=-20", "Received: -20"),
        ("min_face=%D9%A4%D9%A0", "`min_face` must be"),  # digits, but Arabic ones
        ("aligned=true&aligned=false", "`aligned` is given twice."),
        ("alligned=true", "`alligned` is not an option; aligned, flip and min_face are."),
    ],
)
def test_wrong_option_is_400(server: str, query: str, words: str) -> None:
    response = httpx.post(f"{server}/v1/predict?{query}", content=encode(COUPLE), headers=OCTETS)
    assert response.status_code == 400 and words in response.json()["error"]


def test_other_media_types_are_415(server: str) -> None:
    for media_type in ("application/x-www-form-urlencoded", "application/json", "text/plain"):
        headers = {"content-type": media_type}
        response = httpx.post(f"{server}/v1/predict", content=encode(COUPLE), headers=headers)
        assert response.status_code == 415 and f"Received: Content-Type: {media_type}" in response.json()["error"]


MULTIPART = {"content-type": "multipart/form-data; boundary=x"}


@pytest.mark.parametrize(
    ("headers", "body", "words"),
    [
        (MULTIPART, b"--x--\r\n", "has no file in it"),
        (MULTIPART, b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nhello\r\n--x--\r\n', "must be a file"),
        (MULTIPART, b"no multipart at all", "cannot be read"),
        ({"content-type": "multipart/form-data"}, b"--x--\r\n", "Missing boundary"),
        (OCTETS, b"", "The body is empty; send the bytes of an image."),
    ],
)
def test_empty_or_damaged_body_is_400(server: str, headers: dict[str, str], body: bytes, words: str) -> None:
    response = httpx.post(f"{server}/v1/predict", content=body, headers=headers)
    assert response.status_code == 400 and words in response.json()["error"]


def test_model_is_described(server: str) -> None:
    model = httpx.get(f"{server}/v1/model").json()
    assert "non-commercial" in model.pop("licence") and "decide about people" in model.pop("not_for")
    assert model == {
        "version": ag.__version__,
        "outputs": ["age", "gender"],
        "input_size": 64,
        "flip": True,
        "calibration": {"age_interval_coverage": 0.95, "gender_temperature": load_released().calibration.temperature},
        "limits": {"image_bytes": 20_000_000, "body_bytes": 60_000_000, "images_per_request": 64},
    }


def test_answers_match_openapi(server: str) -> None:
    document = httpx.get(f"{server}/openapi.json").json()

    def validate(path: str, method: str, response: httpx.Response) -> None:
        declared = document["paths"][path][method]["responses"][str(response.status_code)]
        if "$ref" in declared:
            declared = document["components"]["responses"][declared["$ref"].rpartition("/")[2]]
        schema = declared["content"]["application/json"]["schema"]
        jsonschema.validate(response.json(), {**schema, "components": document["components"]})

    files = [("images", ("a.png", encode(COUPLE))), ("images", ("b.png", b"hello"))]
    validate("/v1/predict", "post", post(server, encode(COUPLE)))
    validate("/v1/predict", "post", post(server, encode(COUPLE), aligned="true"))
    validate("/v1/predict", "post", httpx.post(f"{server}/v1/predict", files=files, timeout=60))
    validate("/v1/predict", "post", post(server, b"hello"))
    validate("/v1/predict", "post", post(server, b""))
    validate("/v1/model", "get", httpx.get(f"{server}/v1/model"))
    validate("/healthz", "get", httpx.get(f"{server}/healthz"))
    for path, methods in document["paths"].items():
        for method in methods:
            assert httpx.request(method, server + path).status_code not in (404, 405)


def read_metric(server: str, line: str) -> float:
    found = re.search(rf"^{re.escape(line)} (\S+)$", httpx.get(f"{server}/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_metrics_count_requests_images_and_faces(server: str) -> None:
    lines = {
        'agegender_requests_total{path="/v1/predict",status="200"}': 1.0,
        'agegender_requests_total{path="/v1/predict",status="422"}': 1.0,
        'agegender_images_total{outcome="ok"}': 1.0,
        'agegender_images_total{outcome="unusable"}': 1.0,
        "agegender_faces_total": 2.0,
        'agegender_request_seconds_count{path="/v1/predict"}': 2.0,
        'agegender_request_seconds_bucket{le="30.0",path="/v1/predict"}': 2.0,
        'agegender_batch_size_bucket{le="1.0"}': 2.0,
        'agegender_batch_size_bucket{le="16.0"}': 2.0,
    }
    before = {line: read_metric(server, line) for line in lines}
    post(server, encode(COUPLE)), post(server, b"hello")
    assert {line: read_metric(server, line) - before[line] for line in lines} == lines
    assert read_metric(server, "agegender_waiting_images") == 0


def test_many_clients_share_batches(server: str, predictor: ag.Predictor) -> None:
    bodies = [draw_noise(seed) for seed in range(8)]
    expected = predictor(bodies, aligned=True)
    assert len({photograph[0].age for photograph in expected}) == len(bodies)
    count, total = "agegender_batch_size_count", "agegender_batch_size_sum"
    before = read_metric(server, total), read_metric(server, count)

    def run_client(client: int) -> list[tuple[int, dict]]:
        turns = [(client + turn) % len(bodies) for turn in range(2)]
        return [(turn, post(server, bodies[turn], aligned="true").json()) for turn in turns]

    with concurrent.futures.ThreadPoolExecutor(12) as clients:
        answers = [each for got in clients.map(run_client, range(12)) for each in got]
    for turn, answer in answers:
        assert_same(answer, expected[turn])
    images, batches = read_metric(server, total) - before[0], read_metric(server, count) - before[1]
    assert images == 24 and batches <= 16


# ---- nothing is written


OPENED: list[tuple[str, str]] = []
WATCHING = threading.Event()


def watch_opened_files() -> None:
    def hook(event: str, arguments: tuple) -> None:
        if event == "open" and WATCHING.is_set():
            OPENED.append((str(arguments[0]), str(arguments[1])))

    sys.addaudithook(hook)


def test_no_upload_opens_a_file_however_large(server: str) -> None:
    large = encode(np.random.default_rng(0).integers(0, 256, (1500, 1500, 3), "uint8"))  # 6.7 MB of PNG
    assert len(large) > 5_000_000
    post(server, large, aligned="true")
    watch_opened_files()
    WATCHING.set()
    try:
        with pathlib.Path("/dev/null").open():
            pass
        assert post(server, large, aligned="true").status_code == 200
        files = [("images", (f"{number}.png", large)) for number in range(4)]
        answers = httpx.post(f"{server}/v1/predict?aligned=1", files=files, timeout=60).json()
    finally:
        WATCHING.clear()
    assert len(answers) == 4
    assert OPENED == [("/dev/null", "r")]  # the watch works, and saw nothing else


# ---- the page


HEADERS = {
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def test_page_files_are_served_and_name_nothing_elsewhere(server: str) -> None:
    page = httpx.get(f"{server}/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    for response in (page, httpx.get(f"{server}/nothing"), httpx.get(server, headers={"host": "evil.example"})):
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert {name: response.headers[name] for name in HEADERS} == HEADERS and "server" not in response.headers
    for words in (
        "Do not use this to decide about people",
        "non-commercial research",
        "is written nowhere",
        "<noscript>",
    ):
        assert words in " ".join(page.text.split())
    links = re.findall(r'(?:src|href)="([^"]*)"', page.text)
    assert {"style.css", "page.js", "examples/0.jpg"} <= set(links)
    for link in links:
        assert "//" not in link and not link.startswith("/")
        assert httpx.get(f"{server}/{link}").status_code == 200
    assert "https:" not in httpx.get(f"{server}/page.js").text + httpx.get(f"{server}/style.css").text


def test_examples_show_the_faces_that_were_drawn(server: str, predictor: ag.Predictor) -> None:
    counts = [len(predictor(httpx.get(f"{server}/examples/{number}.jpg").content)) for number in range(3)]
    assert counts == [2, 1, 3]
    assert httpx.get(f"{server}/examples/3.jpg").status_code == 404


def test_everything_answers_below_the_root_path_too(server: str) -> None:
    assert httpx.get(f"{server}/faces").headers["location"] == "/faces/"
    for path in ("/", "/style.css", "/v1/model", "/openapi.json", "/examples/0.jpg"):
        below, above = httpx.get(f"{server}/faces{path}"), httpx.get(server + path)
        assert below.status_code == 200 and below.content == above.content
    assert post(f"{server}/faces", encode(COUPLE), aligned="1").status_code == 200
    assert httpx.get(f"{server}/faces/faces/").status_code == 404


def test_failing_predictor_fails_only_its_images(predictor: ag.Predictor, capsys: pytest.CaptureFixture[str]) -> None:
    class Breaking:
        calibration, flip, detector = None, False, predictor.detector
        model = types.SimpleNamespace(flip=True)  # as of an ONNX file

        def __call__(self, files: list[bytes], *, aligned: bool) -> list:
            if draw_noise(1, 63) in files:
                raise MemoryError("too many faces")
            return predictor(files, aligned=True)

    with run_server(Breaking()) as server:  # type: ignore[arg-type]
        files = [("images", (f"{n}.png", draw_noise(n, size))) for n, size in enumerate((64, 63, 64))]
        answers = httpx.post(f"{server}/v1/predict", files=files, timeout=60).json()
        assert [len(answer.get("faces", [])) for answer in answers] == [1, 0, 1]
        assert answers[1]["error"] == "The server failed on this image."
        assert post(server, draw_noise(1, 63)).status_code == 500
        assert "`flip` must be true" in post(server, draw_noise(1), flip="false").json()["error"]
    assert "an image failed: MemoryError: too many faces" in capsys.readouterr().err


def test_server_that_does_not_answer_images_is_not_healthy(predictor: ag.Predictor) -> None:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(create_app(predictor))  # which was not started
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.get("/healthz")

    response = asyncio.run(ask())
    assert response.status_code == 503 and "has stopped answering images" in response.json()["error"]


def test_refusal_says_when_to_try_again_and_closes_what_is_unread() -> None:
    response = RefusalResponse(Refusal(503, "Too many.", retry_after=7, unread=True))
    assert (response.status_code, json.loads(response.body)) == (503, {"error": "Too many."})
    assert (response.headers["retry-after"], response.headers["connection"]) == ("7", "close")
    assert not {"retry-after", "connection"} & set(RefusalResponse(Refusal(400, "Wrong.")).headers)
