"""The batcher on its own, with functions in the place of the model that say what reached it."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence

import pytest
from PIL import Image

from agegender.inference.images import ImageError
from agegender.inference.results import Photograph
from agegender.server.batching import MAX_WAITING, Batcher, Options, QueueFullError
from agegender.server.metrics import Metrics


def decode(data: bytes) -> Image.Image:
    """An image as wide as a number says."""
    if data == b"broken":
        raise ImageError("", "is broken")
    return Image.new("RGB", (int(data), 1))


class Model:
    """Answers with the width of each image; waits while `gate` is closed."""

    def __init__(self) -> None:
        self.batches: list[tuple[list[int], Options]] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, images: Sequence[Image.Image], options: Options) -> list[Photograph]:
        self.batches.append(([image.width for image in images], options))
        self.gate.wait(10)
        if any(image.width == 13 for image in images):
            raise RuntimeError("13")
        return [Photograph(size=image.size) for image in images]


def run(model: Model, use: Callable[[Batcher], Awaitable[None]]) -> None:
    async def go() -> None:
        async with Batcher(model, decode, Metrics()) as batcher:
            await asyncio.wait_for(use(batcher), 20)

    asyncio.run(go())


async def wait_until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def test_images_that_wait_share_a_batch_and_are_answered_in_order() -> None:
    model = Model()

    async def use(batcher: Batcher) -> None:
        model.gate.clear()
        first = batcher.submit([b"1"], Options())
        await wait_until(lambda: len(model.batches) == 1)
        requests = [batcher.submit([b"%d" % n, b"broken"], Options()) for n in range(2, 8)]
        await asyncio.sleep(0.1)
        model.gate.set()
        assert [answer.size for answer in await asyncio.gather(*first)] == [(1, 1)]
        for number, futures in enumerate(requests, 2):
            good, broken = await asyncio.gather(*futures)
            assert good.size == (number, 1) and isinstance(broken, ImageError)

    run(model, use)
    assert [sorted(widths) for widths, _ in model.batches] == [[1], [2, 3, 4, 5, 6, 7]]


def test_threads_share_what_waits() -> None:
    model = Model()

    async def use() -> None:
        async with Batcher(model, decode, Metrics(), threads=2) as batcher:
            model.gate.clear()
            futures = batcher.submit([b"1"], Options()) + batcher.submit([b"2"], Options(aligned=True))
            await wait_until(lambda: len(model.batches) == 2)
            futures += batcher.submit([b"3"] * 8, Options())
            await asyncio.sleep(0.1)
            model.gate.set()
            await asyncio.gather(*futures)

    asyncio.run(asyncio.wait_for(use(), 20))
    assert sum(len(widths) for widths, _ in model.batches[2:]) == 8


def test_batches_hold_at_most_16_images_of_equal_options() -> None:
    model = Model()

    async def use(batcher: Batcher) -> None:
        model.gate.clear()
        futures = batcher.submit([b"1"], Options())
        await wait_until(lambda: len(model.batches) == 1)
        for number in range(20):
            futures += batcher.submit([b"2"], Options(aligned=number % 2 == 0))
        futures += batcher.submit([b"2"] * 20, Options())
        await asyncio.sleep(0.1)
        model.gate.set()
        await asyncio.gather(*futures)

    run(model, use)
    assert [(len(widths), options.aligned) for widths, options in model.batches] == [
        (1, False),
        (10, True),
        (16, False),
        (14, False),
    ]


def test_full_queue_refuses_a_whole_request_at_once() -> None:
    model = Model()

    async def use(batcher: Batcher) -> None:
        model.gate.clear()
        futures = batcher.submit([b"1"] * (MAX_WAITING - 1), Options())
        with pytest.raises(QueueFullError, match=r"Too many images are waiting. Try again in \d+ s.") as error:
            batcher.submit([b"1", b"1"], Options())
        assert error.value.retry_after >= 1
        futures += batcher.submit([b"1"], Options())
        model.gate.set()
        assert len(await asyncio.gather(*futures)) == MAX_WAITING
        await asyncio.gather(*batcher.submit([b"1"] * MAX_WAITING, Options()))  # all slots are free again

    run(model, use)


def test_cancelled_images_free_their_slots_and_reach_no_model() -> None:
    model = Model()

    async def use(batcher: Batcher) -> None:
        model.gate.clear()
        first = batcher.submit([b"1"], Options())
        await wait_until(lambda: len(model.batches) == 1)
        for _ in range(3):
            for future in batcher.submit([b"2"] * (MAX_WAITING - 1), Options()):
                future.cancel()
            await asyncio.sleep(0)
        last = batcher.submit([b"3"], Options())
        model.gate.set()
        await asyncio.gather(*first, *last)

    run(model, use)
    assert [widths for widths, _ in model.batches] == [[1], [3]]


def test_image_that_breaks_the_model_costs_the_others_nothing() -> None:
    async def use(batcher: Batcher) -> None:
        futures = batcher.submit([b"12", b"13", b"14"], Options())
        before, broken, after = await asyncio.gather(*futures, return_exceptions=True)
        assert isinstance(before, Photograph) and isinstance(after, Photograph)
        assert isinstance(broken, RuntimeError)

    run(Model(), use)


def test_large_images_wait_as_files() -> None:
    decoded: list[int] = []
    model = Model()

    def decode_large(data: bytes) -> Image.Image:
        decoded.append(int(data))
        return Image.new("L", (5000, 4000))  # 20 million pixels

    async def use() -> None:
        async with Batcher(model, decode_large, Metrics()) as batcher:
            model.gate.clear()
            futures = batcher.submit([b"%d" % n for n in range(10)], Options())
            await wait_until(lambda: len(model.batches) == 1)
            await asyncio.sleep(0.2)
            assert len(decoded) <= 3  # two pass the limit of 32 million
            model.gate.set()
            await asyncio.gather(*futures)

    asyncio.run(asyncio.wait_for(use(), 20))
    assert sorted(decoded) == list(range(10))
