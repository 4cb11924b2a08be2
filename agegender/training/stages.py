"""The stages of a run: ranges of epochs, each at one image size."""

import itertools
import operator
from collections.abc import Sequence
from typing import NamedTuple


class Stage(NamedTuple):
    """The epochs `first_epoch <= epoch < end_epoch` at one image size in pixels."""

    first_epoch: int
    end_epoch: int
    image_size: int


def list_stages(
    image_sizes: Sequence[tuple[int, int]], epochs: int, full_size: int, cache_trunk: int = 0
) -> list[Stage]:
    """Lists the stages of a run: those at smaller sizes, then the rest at the full size.

    >>> list_stages([(8, 32)], 10, 64)
    [Stage(first_epoch=0, end_epoch=8, image_size=32), Stage(first_epoch=8, end_epoch=10, image_size=64)]
    """
    try:
        pairs = [(operator.index(count), operator.index(size)) for count, size in image_sizes]
    except (TypeError, ValueError):
        pairs = [(0, 0)]  # refused below
    small_epochs = sum(count for count, _ in pairs)
    if any(count < 1 or not 1 <= size <= full_size for count, size in pairs) or small_epochs >= epochs:
        raise ValueError(
            f"`image_sizes` must be pairs of epochs, together less than the {epochs} of the run, and pixels in "
            f"1..{full_size}, such as [(8, {full_size // 2})]. Received: image_sizes={image_sizes!r}"
        )
    if pairs and cache_trunk:
        raise ValueError(
            f"`cache_trunk` needs one image size. Received: cache_trunk={cache_trunk}, image_sizes={pairs}"
        )
    ends = list(itertools.accumulate((count for count, _ in pairs), initial=0))
    return [*map(Stage, ends, ends[1:], (size for _, size in pairs)), Stage(ends[-1], epochs, full_size)]
