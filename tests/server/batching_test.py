"""The batcher on its own, with a function in the place of the model that says what reached it."""

import asyncio
import itertools
import threading
import types
from collections.abc import Awaitable, Callable, Sequence

import pytest

from agegender.inference.images import ImageError
from agegender.inference.results import Photograph
from agegender.server import batching
from agegender.server.batching import Batcher, Options, QueueFullError
from agegender.server.metrics import Metrics


class Model:
    """Answers with the length of each file; waits while `gate` is closed."""

    def __init__(self) -> None:
        self.batches: list[tuple[list[int], Options]] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, files: Sequence[bytes], options: Options) -> list[Photograph | ImageError]:
        self.batches.append(([len(data) for data in files], options))
        self.gate.wait(60)
        if b"breaks" in files:
            raise RuntimeError
        return [
            ImageError("", "is unusable") if data == b"unusable" else Photograph(size=(len(data), 1)) for data in files
        ]


def run(model: Model, use: Callable[[Batcher], Awaitable[None]]) -> None:
    async def go() -> None:
        async with Batcher(model, Metrics()) as batcher:
            assert batcher.is_alive
            await asyncio.wait_for(use(batcher), 120)
        assert not batcher.is_alive

    asyncio.run(go())


async def keep_threads_busy(batcher: Batcher, model: Model) -> list[asyncio.Future]:
    """Closes the gate in front of one image for each of the two threads."""
    model.gate.clear()
    futures = batcher.submit([b"1"], Options()) + batcher.submit([b"1"], Options(aligned=True))
    while len(model.batches) < 2:
        await asyncio.sleep(0.005)
    return futures


def test_waiting_images_share_a_batch() -> None:
    model = Model()

    async def use(batcher: Batcher) -> None:
        first = await keep_threads_busy(batcher, model)
        requests = [batcher.submit([b"x" * n, b"unusable"], Options()) for n in range(2, 6)]
        model.gate.set()
        await asyncio.gather(*first)
        for number, futures in enumerate(requests, 2):
            photograph, unusable = await asyncio.gather(*futures)
            assert photograph.size == (number, 1) and isinstance(unusable, ImageError)

    run(model, use)
    lengths = [length for lengths, _ in model.batches[2:] for length in lengths]
    assert lengths == [2, 8, 3, 8, 4, 8, 5, 8] and len(model.batches) <= 2 + 3


@pytest.mark.parametrize(("count", "sizes"), [(2, [1, 1]), (9, [5, 4]), (40, [16, 16, 8])])
def test_idle_threads_share_the_waiting_images(count: int, sizes: list[int]) -> None:
    model = Model()

    async def use(batcher: Batcher) -> None:
        model.gate.clear()
        futures = batcher.submit([b"1"] * count, Options())
        while len(model.batches) < 2:
            await asyncio.sleep(0.005)
        model.gate.set()
        await asyncio.gather(*futures)

    run(model, use)
    assert [len(lengths) for lengths, _ in model.batches] == sizes


def test_batches_have_at_most_16_images_of_equal_options() -> None:
    model = Model()

    async def use(batcher: Batcher) -> None:
        futures = await keep_threads_busy(batcher, model)
        for number in range(20):
            futures += batcher.submit([b"2"], Options(aligned=number % 2 == 0))
        futures += batcher.submit([b"2"] * 40, Options())
        model.gate.set()
        await asyncio.gather(*futures)

    run(model, use)
    sizes = {aligned: [len(lengths) for lengths, options in model.batches[2:] if options.aligned == aligned]
             for aligned in (True, False)}  # fmt: skip
    assert (sum(sizes[True]), sum(sizes[False])) == (10, 50)
    assert max(sizes[False]) == 16


def test_large_files_do_not_share_a_batch() -> None:
    model = Model()

    async def use(batcher: Batcher) -> None:
        futures = await keep_threads_busy(batcher, model)
        futures += batcher.submit([bytes(6_000_000), bytes(6_000_000), b"3", b"3"], Options())
        model.gate.set()
        await asyncio.gather(*futures)

    run(model, use)
    assert all(sum(lengths) <= 10_000_000 for lengths, _ in model.batches)


def test_images_of_other_options_keep_their_turn() -> None:
    model = Model()

    async def use(batcher: Batcher) -> None:
        futures = await keep_threads_busy(batcher, model)
        for files, aligned in ([b"22"], True), ([b"333"], False), ([b"22"] * 15, True), ([b"4444"], False):
            futures += batcher.submit(files, Options(aligned, min_face=len(files[0])))
        model.gate.set()
        await asyncio.gather(*futures)

    run(model, use)
    assert [lengths for lengths, _ in model.batches[2:]] == [[2] * 16, [3], [4]]


def test_full_queue_refuses_a_whole_request_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model()
    times = itertools.count(0.0, 8.0)  # seconds: each batch takes 8
    monkeypatch.setattr(batching, "time", types.SimpleNamespace(perf_counter=lambda: next(times)))

    async def use(batcher: Batcher) -> None:
        async def fill(free: int) -> tuple[list[asyncio.Future], int]:
            futures = batcher.submit([b"1"] * free, Options())
            with pytest.raises(QueueFullError, match=r"Too many images are waiting. Try again in \d+ s.") as error:
                batcher.submit([b"1", b"1"], Options())
            return [*futures, *batcher.submit([b"1"], Options())], error.value.retry_after

        model.gate.clear()
        first, retry_after = await fill(127)
        assert retry_after == 13  # of 0.1 s each, before anything is known
        for future in first:
            future.cancel()
        await asyncio.sleep(0)
        model.gate.set()
        # Four images in 8 s, on two threads: 1 s each. A fifth of the way from 0.1 to 1 is 0.28.
        batcher._idle = 1
        await asyncio.gather(*batcher.submit([b"1"] * 4, Options()))
        model.gate.clear()
        futures, retry_after = await fill(127)
        assert retry_after == 36  # 127 times 0.28
        model.gate.set()
        assert len(await asyncio.gather(*futures)) == 128

    run(model, use)


def test_cancelled_images_leave_the_queue() -> None:
    model = Model()

    async def use(batcher: Batcher) -> None:
        futures = await keep_threads_busy(batcher, model)
        for _ in range(3):
            for future in batcher.submit([b"22"] * 126, Options()):
                future.cancel()
            await asyncio.sleep(0)
        assert {item.data for item in batcher._queue} == {b""}  # their bytes are freed at once
        futures += batcher.submit([b"333"], Options())
        model.gate.set()
        await asyncio.gather(*futures)

    run(model, use)
    assert [lengths for lengths, _ in model.batches] == [[1], [1], [3]]


def test_image_that_fails_in_the_model_leaves_the_others() -> None:
    async def use(batcher: Batcher) -> None:
        futures = batcher.submit([b"1", b"breaks", b"3"], Options())
        before, broken, after = await asyncio.gather(*futures, return_exceptions=True)
        assert isinstance(before, Photograph) and isinstance(after, Photograph)
        assert isinstance(broken, RuntimeError)

    run(Model(), use)
