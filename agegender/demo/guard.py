"""What a visitor may send: no files, no large bodies; and what the server forgets after each answer.

Gradio is made for files: whatever is sent to its upload address is written to the disk and stays there, under a name
that all who send the same bytes share, and a file's address that stands in a request is fetched, wherever it points to.
This page sends images as text inside the request, so that none of this is needed, and here it is switched off. So are
the addresses at which a function is called beside the queue, which is what lets in one request at a time.
"""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

MAX_BYTES: Final = 20_000_000  # of a image's file: what a telephone of 50 million pixels makes fits
_MAX_BODY: Final = MAX_BYTES * 4 // 3 + 20_000  # the same as base64 in JSON
_INSIDE: Final = "/gradio_api/"
# What the page and Gradio's client ask for; the rest of its addresses serve files, or what is switched off.
_NEEDED: Final = ("app_id", "call", "cancel", "config", "heartbeat", "info", "login_check", "queue", "startup-events")
_TOO_LARGE: Final = f"The image is too large. The limit is {MAX_BYTES // 1_000_000} MB."
_NO_FILES: Final = "Not on this page: it takes no files. Send the image's bytes as base64 text to /predict."


_NOT_JSON: Final = "The request must be JSON: Content-Type: application/json."
_NO_LENGTH: Final = "The request must say its length, and come in one piece: Content-Length."
_NOT_UNDERSTOOD: Final = "The request was not understood. /?view=api says what this page answers."


class Guard:
    """ASGI middleware: refuses what it must not let in with a clean answer, and calls `forget` after each request.

    Args:
        app: what answers the other requests.
        forget: called when an answer has been sent.
    """

    def __init__(self, app: App, forget: Callable[[], None]) -> None:
        self.app, self.forget = app, forget

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refused = _refusal(scope)
        if refused:
            await _refuse(send, *refused)
            return
        try:
            await self._answer(scope, receive, send)
        finally:
            if scope["path"].startswith(_INSIDE):
                self.forget()

    async def _answer(self, scope: Message, receive: Receive, send: Send) -> None:
        begun = False

        async def sending(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, sending)
        except Exception:  # a request that Gradio stumbles over; what it would write into the log holds the image
            if begun:
                await send({"type": "http.response.body", "body": b""})
            else:
                await _refuse(send, 400, _NOT_UNDERSTOOD)


def forbid_files(blocks: Any) -> None:
    """Makes every component of a page refuse files, whose addresses Gradio would otherwise fetch or copy.

    Args:
        blocks: a `gradio.Blocks`.
    """

    import gradio

    async def refuse(address: Any) -> None:
        raise gradio.Error(_NO_FILES, print_exception=False)

    for block in blocks.blocks.values():
        block.async_move_resource_to_block_cache = refuse


def check_inputs(blocks: Any) -> None:
    """Makes a page refuse wrong numbers of inputs; Gradio itself writes them, a image too, into the server's log.

    Args:
        blocks: a `gradio.Blocks`.
    """
    import gradio

    def check(function: Any, inputs: list) -> None:
        if len(inputs) != len(function.inputs):
            words = f"`data` must hold {len(function.inputs)} values. Received: {len(inputs)}"
            raise gradio.Error(words, print_exception=False)

    blocks.validate_inputs = check


def _refusal(scope: Message) -> tuple[int, str] | None:
    path, asks = scope["path"], scope["method"] in ("GET", "HEAD", "OPTIONS")
    inside = path.startswith(_INSIDE)
    if not asks and not inside:
        return 403, _NO_FILES
    if inside and path.removeprefix(_INSIDE).split("/")[0] not in _NEEDED:
        return 403, _NO_FILES
    if asks:
        return None
    headers = dict(scope["headers"])
    length = headers.get(b"content-length", b"")
    if not length.isdigit() or b"transfer-encoding" in headers:  # of the two the second would count
        return 411, _NO_LENGTH
    if int(length) > _MAX_BODY:
        return 413, _TOO_LARGE
    is_json = headers.get(b"content-type", b"").partition(b";")[0].strip().lower() == b"application/json"
    return None if is_json else (415, _NOT_JSON)


async def _refuse(send: Send, status: int, words: str) -> None:
    body = json.dumps({"detail": words}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
