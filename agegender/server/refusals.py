"""Requests that are not answered: a status and one plain sentence."""

import asyncio
import contextlib
from typing import Final

from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

_DRAIN_SECONDS: Final = 2.0


class Refusal(Exception):
    """A request that is not answered.

    Args:
        status: of HTTP.
        sentence: the error in words.
        retry_after: seconds after which to try again.
        unread: whether parts of the body have not been read.
    """

    def __init__(self, status: int, sentence: str, *, retry_after: int | None = None, unread: bool = False) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.retry_after, self.unread = status, sentence, retry_after, unread


class RefusalResponse(JSONResponse):
    """Answers with {"error": sentence}.

    Where the body is not read to its end the connection is closed. A client that still sends would lose the answer if
    that happened at once, so for up to two seconds what it sends is thrown away.
    """

    def __init__(self, refusal: Refusal) -> None:
        headers = {"connection": "close"} if refusal.unread else {}
        if refusal.retry_after is not None:
            headers["retry-after"] = str(refusal.retry_after)
        super().__init__({"error": refusal.sentence}, refusal.status, headers)
        self._unread = refusal.unread

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the answer."""
        if not self._unread:
            await super().__call__(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                while (await receive()).get("more_body"):
                    pass
        await send({"type": "http.response.body"})
