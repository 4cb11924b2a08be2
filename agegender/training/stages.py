"""The epochs of a run at each size of images."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple


class Stage(NamedTuple):
    """Epochs at one size of images."""

    first: int
    end: int
    size: int


def list_stages(sizes: Sequence[tuple[int, int]], epochs: int, full: int, cache_trunk: int) -> list[Stage]:
    """The epochs at small sizes, and the rest at the full one.

    >>> list_stages([(8, 32)], 10, 64, 0)
    [Stage(first=0, end=8, size=32), Stage(first=8, end=10, size=64)]
    """
    if any(count < 1 or not 1 <= size <= full for count, size in sizes) or sum(count for count, _ in sizes) >= epochs:
        raise ValueError(
            f"`sizes` must be pairs of epochs, together less than the {epochs} of the run, and pixels in 1..{full}. "
            f"Received: sizes={list(sizes)}"
        )
    if sizes and cache_trunk:
        raise ValueError(f"`cache_trunk` keeps one size. Received: cache_trunk={cache_trunk}, sizes={list(sizes)}")
    ends = list(itertools.accumulate((count for count, _ in sizes), initial=0))
    return [*map(Stage, ends, ends[1:], (size for _, size in sizes)), Stage(ends[-1], epochs, full)]
