"""Answers the images of many requests in shared batches."""

import asyncio
import collections
import concurrent.futures
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import Final

from agegender.inference.images import ImageError
from agegender.inference.results import Photograph
from agegender.server.metrics import Metrics

MAX_WAITING: Final = 128  # images that are admitted and not answered yet; more are refused
_MAX_BATCH: Final = 16  # images
_MAX_BATCH_BYTES: Final = 10_000_000  # of files; a larger one is answered alone
_GATHERING_SECONDS: Final = 0.002  # how long the first image of a batch waits for others
_THREADS: Final = 2  # one computes while another reads files; each batch uses all cores where it can
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
Predict = Callable[[Sequence[bytes], Options], Sequence[Answer]]


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
    future: "asyncio.Future[Answer]"


class Batcher:
    """Predicts images that wait together in one batch, in threads.

    Use it as an asynchronous context manager. Cancel the future of an image that nobody waits for: it reaches no batch.

    Args:
        predict: answers files of equal options, in order.
        metrics: where batch sizes and waiting images are counted.
    """

    def __init__(self, predict: Predict, metrics: Metrics) -> None:
        self._predict, self._metrics = predict, metrics
        self._waiting = 0
        self._idle = _THREADS
        self._seconds_per_image = 0.1
        self._queue: collections.deque[_Item] = collections.deque()
        self._arrived = asyncio.Event()
        self._pool = concurrent.futures.ThreadPoolExecutor(_THREADS, "predict")
        self._tasks: list[asyncio.Task] = []

    async def __aenter__(self) -> "Batcher":
        self._tasks = [asyncio.create_task(self._answer_batches()) for _ in range(_THREADS)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._pool.shutdown(wait=True, cancel_futures=True)

    @property
    def is_alive(self) -> bool:
        """Whether images are answered."""
        return bool(self._tasks) and not any(task.done() for task in self._tasks)

    def submit(self, files: Sequence[bytes], options: Options) -> list["asyncio.Future[Answer]"]:
        """Admits all images of a request, or none.

        Args:
            files: their bytes.
            options: how to answer them.

        Returns:
            A future for each.

        Raises:
            QueueFullError: if they do not all fit.
        """
        if self._waiting + len(files) > MAX_WAITING:
            raise QueueFullError(max(1, math.ceil(self._waiting * self._seconds_per_image)))
        loop = asyncio.get_running_loop()
        items = [_Item(data, options, loop.create_future()) for data in files]
        for item in items:
            item.future.add_done_callback(functools.partial(self._release, item))
        self._queue.extend(items)
        self._count(len(items))
        self._arrived.set()
        return [item.future for item in items]

    def _release(self, item: _Item, _: asyncio.Future) -> None:
        """Forgets an image that was answered, or that nobody waits for any more."""
        item.data = b""
        self._count(-1)

    def _count(self, change: int) -> None:
        self._waiting += change
        self._metrics.waiting.set(self._waiting)

    async def _answer_batches(self) -> None:
        while True:
            await self._arrived.wait()
            await asyncio.sleep(_GATHERING_SECONDS)
            self._arrived.clear()
            while batch := self._take_batch():
                await self._answer_batch(batch)

    async def _answer_batch(self, batch: Sequence[_Item]) -> None:
        loop = asyncio.get_running_loop()
        self._idle -= 1
        started = time.perf_counter()
        files = [item.data for item in batch]
        answers = await loop.run_in_executor(self._pool, self._predict_files, files, batch[0].options)
        seconds = (time.perf_counter() - started) / len(batch) / _THREADS
        self._seconds_per_image += _SMOOTHING * (seconds - self._seconds_per_image)
        self._idle += 1
        self._metrics.batch_size.observe(len(batch))
        for item, answer in zip(batch, answers, strict=True):
            if item.future.done():
                continue
            if isinstance(answer, Photograph | ImageError):
                item.future.set_result(answer)
            else:
                item.future.set_exception(answer)

    def _take_batch(self) -> list[_Item]:
        """The oldest image and those behind it that have its options: this thread's share, within the limits."""
        share = min(_MAX_BATCH, math.ceil(len(self._queue) / max(1, self._idle)))
        batch: list[_Item] = []
        left: list[_Item] = []
        size = 0
        while self._queue and len(batch) < share:
            item = self._queue.popleft()
            if item.future.done():
                continue
            if batch and (item.options != batch[0].options or size + len(item.data) > _MAX_BATCH_BYTES):
                left.append(item)
                continue
            batch.append(item)
            size += len(item.data)
        self._queue.extendleft(reversed(left))
        return batch

    def _predict_files(self, files: Sequence[bytes], options: Options) -> Sequence[Answer | Exception]:
        """An answer or an exception for each file; one that fails does not cost the others theirs."""
        try:
            return self._predict(files, options)
        except Exception as error:
            if len(files) == 1:
                return [error]
            return [self._predict_files([data], options)[0] for data in files]
