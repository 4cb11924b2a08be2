"""Answers the images of many requests in shared batches."""

import asyncio
import collections
import concurrent.futures
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from PIL import Image

from agegender.inference.images import ImageError
from agegender.inference.results import Photograph
from agegender.server.metrics import Metrics

MAX_WAITING: Final = 128  # images that are admitted and not answered yet; more are refused
_MAX_BATCH: Final = 16  # images
_MAX_BATCH_PIXELS: Final = 16_000_000
_MAX_DECODED_PIXELS: Final = 32_000_000  # decoded and not answered yet; more images wait as files
_GATHERING_SECONDS: Final = 0.004  # how long a batch waits for images that are still being decoded
_SMOOTHING: Final = 0.2  # of the seconds per image that `retry_after` expects


@dataclasses.dataclass(frozen=True)
class Options:
    """How to answer an image; images with equal options share batches.

    Attributes:
        aligned: whether it shows one aligned face.
        flip: whether to average with the mirror image; None does what the model was calibrated with.
        min_face: pixels, the side of the smallest face to look for; None is the default of `Predictor`.
    """

    aligned: bool = False
    flip: bool | None = None
    min_face: int | None = None


Answer = Photograph | ImageError
Predict = Callable[[Sequence[Image.Image], Options], Sequence[Answer]]


class QueueFullError(Exception):
    """Too many images are waiting.

    Attributes:
        retry_after: seconds after which to try again.
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"Too many images are waiting. Try again in {retry_after} s.")
        self.retry_after = retry_after


@dataclasses.dataclass(eq=False)
class _Item:
    data: bytes
    options: Options
    future: asyncio.Future
    image: Image.Image | None = None
    pixels: int = 0


class Batcher:
    """Decodes images in threads and predicts those that wait together in one batch.

    Use it as an asynchronous context manager. Cancel the future of an image that nobody waits for: it is dropped
    before the next step.

    Args:
        predict: answers decoded images of equal options, in order.
        decode: turns the bytes of a file into an image, or raises `ImageError`.
        metrics: where batch sizes and waiting images are counted.
        threads: how many call `predict`, and as many call `decode`.
    """

    def __init__(
        self, predict: Predict, decode: Callable[[bytes], Image.Image], metrics: Metrics, *, threads: int = 1
    ) -> None:
        self._predict, self._decode, self._metrics = predict, decode, metrics
        self._threads = self._idle = threads
        self._waiting = self._predicting = 0
        self._seconds_per_image = 0.1
        self._pixels = 0
        self._encoded: asyncio.Queue[_Item] = asyncio.Queue()
        self._decoded: collections.deque[_Item] = collections.deque()
        self._has_decoded, self._has_room = asyncio.Event(), asyncio.Event()
        self._has_room.set()
        self._predict_threads = concurrent.futures.ThreadPoolExecutor(threads, "predict")
        self._decode_threads = concurrent.futures.ThreadPoolExecutor(threads, "decode")
        self._tasks: list[asyncio.Task] = []

    async def __aenter__(self) -> "Batcher":
        loops = [self._decode_images, self._answer_batches] * self._threads
        self._tasks = [asyncio.create_task(loop()) for loop in loops]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for threads in (self._predict_threads, self._decode_threads):
            threads.shutdown(wait=True, cancel_futures=True)

    @property
    def is_alive(self) -> bool:
        """Whether every loop runs."""
        return bool(self._tasks) and not any(task.done() for task in self._tasks)

    def submit(self, files: Sequence[bytes], options: Options) -> list["asyncio.Future[Answer]"]:
        """Admits all images of a request, or none.

        Args:
            files: their bytes.
            options: how to answer them.

        Returns:
            A future for each.

        Raises:
            QueueFullError: if there is no room for all of them.
        """
        if self._waiting + len(files) > MAX_WAITING:
            raise QueueFullError(max(1, math.ceil(self._waiting * self._seconds_per_image)))
        loop = asyncio.get_running_loop()
        items = [_Item(data, options, loop.create_future()) for data in files]
        for item in items:
            self._waiting += 1
            item.future.add_done_callback(functools.partial(self._release, item))
            self._encoded.put_nowait(item)
        self._metrics.waiting.set(self._waiting)
        return [item.future for item in items]

    def _release(self, item: _Item, _: asyncio.Future) -> None:
        """Forgets an image that was answered, or that nobody waits for any more."""
        item.data, item.image = b"", None
        self._waiting -= 1
        self._metrics.waiting.set(self._waiting)
        self._set_pixels(item, 0)

    def _set_pixels(self, item: _Item, pixels: int) -> None:
        self._pixels += pixels - item.pixels
        item.pixels = pixels
        (self._has_room.set if self._pixels <= _MAX_DECODED_PIXELS else self._has_room.clear)()

    async def _decode_images(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            item = await self._encoded.get()
            await self._has_room.wait()
            if item.future.done():
                continue
            try:
                image = await loop.run_in_executor(self._decode_threads, self._decode, item.data)
            except ImageError as error:
                _set_result(item.future, error)
            except Exception as error:
                _set_exception(item.future, error)
            else:
                if not item.future.done():
                    item.data, item.image = b"", image
                    self._set_pixels(item, image.width * image.height)
                    self._decoded.append(item)
            self._has_decoded.set()

    async def _answer_batches(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._has_decoded.wait()
            if len(self._decoded) < min(self._waiting - self._predicting, _MAX_BATCH):
                await asyncio.sleep(_GATHERING_SECONDS)
            self._has_decoded.clear()
            while batch := self._take_batch():
                images = [item.image for item in batch if item.image]
                self._idle -= 1
                self._predicting += len(batch)
                started = time.perf_counter()
                answers = await loop.run_in_executor(
                    self._predict_threads, self._predict_batch, images, batch[0].options
                )
                self._idle += 1
                self._predicting -= len(batch)
                self._record_batch(len(batch), time.perf_counter() - started)
                for item, answer in zip(batch, answers, strict=True):
                    if isinstance(answer, Photograph | ImageError):
                        _set_result(item.future, answer)
                    else:
                        _set_exception(item.future, answer)

    def _take_batch(self) -> list[_Item]:
        """The oldest image and those behind it that have its options: this thread's share, within the limits."""
        share = min(_MAX_BATCH, math.ceil(len(self._decoded) / max(1, self._idle)))
        batch: list[_Item] = []
        left: list[_Item] = []
        pixels = 0
        while self._decoded and len(batch) < share:
            item = self._decoded.popleft()
            if item.future.done():
                continue
            if batch and (item.options != batch[0].options or pixels + item.pixels > _MAX_BATCH_PIXELS):
                left.append(item)
                continue
            batch.append(item)
            pixels += item.pixels
        self._decoded.extendleft(reversed(left))
        return batch

    def _predict_batch(self, images: Sequence[Image.Image], options: Options) -> Sequence[Any]:
        """An answer or an exception for each image; one that fails does not cost the others theirs."""
        try:
            return self._predict(images, options)
        except Exception as error:
            if len(images) == 1:
                return [error]
            return [self._predict_batch([image], options)[0] for image in images]

    def _record_batch(self, size: int, seconds: float) -> None:
        self._metrics.batch_size.observe(size)
        self._seconds_per_image += _SMOOTHING * (seconds / size / self._threads - self._seconds_per_image)


def _set_result(future: asyncio.Future, result: Answer) -> None:
    if not future.done():
        future.set_result(result)


def _set_exception(future: asyncio.Future, error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
