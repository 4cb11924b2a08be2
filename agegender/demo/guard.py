"""What a visitor may send: no files, no large bodies; and what the server forgets after each answer.

Gradio is made for files: whatever is sent to its upload address is written to the disk and stays there, under a name
that all who send the same bytes share, and a file's address that stands in a request is fetched, wherever it points to.
This page sends pictures as text inside the request, so that none of this is needed, and here it is switched off. So are
the addresses at which a function is called beside the queue, which is what lets in one request at a time.
"""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

MAX_BYTES: Final = 20_000_000  # of a picture's file: what a telephone of 50 million pixels makes fits
_MAX_BODY: Final = MAX_BYTES * 4 // 3 + 20_000  # the same as base64 in JSON
_INSIDE: Final = "/gradio_api/"
# What the page and Gradio's client ask for; the rest of its addresses serve files, or what is switched off.
_NEEDED: Final = ("app_id", "call", "cancel", "config", "heartbeat", "info", "login_check", "queue", "startup-events")
_TOO_LARGE: Final = f"The picture is too large. The limit is {MAX_BYTES // 1_000_000} MB."
_NO_FILES: Final = "Not on this page: it takes no files. Send the picture's bytes as base64 text to /predict."


class Guard:
    """ASGI middleware: refuses uploads and large bodies with a clean answer, and calls `forget` after each request.

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
            await self.app(scope, receive, send)
        finally:
            if scope["path"].startswith(_INSIDE):
                self.forget()


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


def _refusal(scope: Message) -> tuple[int, str] | None:
    path, asks = scope["path"], scope["method"] in ("GET", "HEAD", "OPTIONS")
    inside = path.startswith(_INSIDE)
    if not asks and not inside:
        return 403, _NO_FILES
    if inside and path.removeprefix(_INSIDE).split("/")[0] not in _NEEDED:
        return 403, _NO_FILES
    if asks:
        return None
    length = dict(scope["headers"]).get(b"content-length", b"")
    if not length.isdigit():
        return 411, "The request must say its length: Content-Length."
    return (413, _TOO_LARGE) if int(length) > _MAX_BODY else None


async def _refuse(send: Send, status: int, words: str) -> None:
    body = json.dumps({"detail": words}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
