"""Reads the images of a request into memory, within limits; nothing is written to the disk."""

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Final, NamedTuple

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from agegender.server.refusals import Refusal

MAX_FILE_BYTES: Final = 20_000_000  # what a telephone of 50 million pixels makes fits
MAX_BODY_BYTES: Final = 60_000_000  # of a multipart body
MAX_FILES: Final = 64  # of a multipart body
_MAX_BYTES_IN_MEMORY: Final = 400_000_000  # of all bodies that are being read or wait
_PAUSE_SECONDS: Final = 10.0  # without a byte
_PATIENCE_SECONDS: Final = 20.0  # that a body may take, and
_MIN_BYTES_PER_SECOND: Final = 20_000  # faster than this, longer
_RAW_TYPES: Final = ("", "application/octet-stream")
_TOO_SLOW: Final = "The body arrives too slowly."


class Upload(NamedTuple):
    """An image as it was sent.

    Attributes:
        name: of the file, if the client gave one.
        data: its bytes.
    """

    name: str
    data: bytes


class MemoryGauge:
    """Counts the bytes of bodies in memory."""

    def __init__(self) -> None:
        self.used = 0

    def add(self, count: int) -> None:
        """Adds bytes, or raises a `Refusal` if there would be too many."""
        if self.used + count > _MAX_BYTES_IN_MEMORY:
            raise Refusal(503, "The server has too many images in memory.", retry_after=5, unread=True)
        self.used += count


class _InMemoryParser(MultiPartParser):
    """Keeps files in memory: Starlette writes those of more than 1 MB into temporary files."""

    spool_max_size = MAX_BODY_BYTES + 1


class BodyReader:
    """Reads the body of one request. Use it as a context manager: it gives back the memory that it counted.

    Args:
        request: the request.
        memory: counts the bytes.
    """

    def __init__(self, request: Request, memory: MemoryGauge) -> None:
        self._request, self._memory = request, memory
        self._held = 0

    def __enter__(self) -> "BodyReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._memory.used -= self._held

    async def read(self) -> tuple[list[Upload], bool]:
        """Reads the images.

        Returns:
            The images, and whether the request is a list of them.

        Raises:
            Refusal: if the body is too large, too slow, of another type or damaged.
            ClientDisconnect: if the client has gone.
        """
        given = self._request.headers.get("content-type", "")
        media_type = given.partition(";")[0].strip().lower()
        if media_type == "multipart/form-data":
            return await self._read_multipart(), True
        if media_type in _RAW_TYPES or media_type.startswith("image/"):
            body = b"".join([chunk async for chunk in self._chunks(MAX_FILE_BYTES)])
            if not body:
                raise Refusal(400, "The body is empty; send the bytes of an image.")
            return [Upload("", body)], False
        raise Refusal(
            415,
            "Send one image as image/* or application/octet-stream, or several as multipart/form-data. "
            f"Received: Content-Type: {given[:100]}",
            unread=True,
        )

    async def _read_multipart(self) -> list[Upload]:
        parser = _InMemoryParser(
            self._request.headers, self._chunks(MAX_BODY_BYTES), max_files=MAX_FILES, max_fields=MAX_FILES
        )
        try:
            form = await parser.parse()
        except MultiPartException as error:
            raise Refusal(400, f"The multipart body cannot be read: {error.message}", unread=True) from None
        uploads = []
        for name, part in form.multi_items():
            if not isinstance(part, UploadFile):
                raise Refusal(400, f"Each part must be a file; options go into the query. Received: {name[:100]!r}")
            data = await part.read()
            await part.close()
            if len(data) > MAX_FILE_BYTES:
                raise Refusal(413, _too_large(MAX_FILE_BYTES))
            uploads.append(Upload(part.filename or "", data))
        if not uploads:
            raise Refusal(400, "The multipart body has no file in it.")
        return uploads

    async def _chunks(self, limit: int) -> AsyncGenerator[bytes, None]:
        length = self._request.headers.get("content-length", "")
        if length.isdigit() and int(length) > limit:
            raise Refusal(413, _too_large(limit), unread=True)
        stream = self._request.stream()
        started, received = time.monotonic(), 0
        while True:
            left = _PATIENCE_SECONDS + received / _MIN_BYTES_PER_SECOND - (time.monotonic() - started)
            try:
                async with asyncio.timeout(max(0.0, min(_PAUSE_SECONDS, left))):
                    chunk = await anext(stream, None)
            except TimeoutError:
                raise Refusal(408, _TOO_SLOW, unread=True) from None
            if chunk is None:
                return
            received += len(chunk)
            if received > limit:
                raise Refusal(413, _too_large(limit), unread=True)
            self._memory.add(len(chunk))
            self._held += len(chunk)
            yield chunk


def _too_large(limit: int) -> str:
    return f"The {'body' if limit == MAX_BODY_BYTES else 'image'} is larger than {limit // 1_000_000} MB."
