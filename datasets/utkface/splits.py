"""Groups images of the same photograph, by `splits.csv` first, and assigns each group to a split and fold by a hash.

A group is named after the first of its images' stems. Its split is a hash of that name alone, so that a missing or an
added image moves no other group. As the image that names a group may be missing itself, `splits.csv` keeps the groups
of the published set.
"""

import csv
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from .labels import SPLITS, Labels, Skipped, parse_name

FOLDS: Final = 5
TABLE: Final = Path(__file__).with_name("splits.csv")


def split_of(group: str) -> str:
    """Returns the split of a photograph group: eight tenths `train`, one `validation`, one `test`.

    >>> split_of("26_1_2_20170116174525125")
    'train'
    """
    return SPLITS[max(0, _hash(group) % 10 - 7)]


def fold_of(group: str) -> int:
    """Returns the fold of a photograph group for cross-validation, 0 to 4, whatever its split.

    >>> fold_of("26_1_2_20170116174525125")
    2
    """
    return _hash(f"fold {group}") % FOLDS


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def read_known_groups(path: Path = TABLE) -> dict[str, str]:
    """Returns the group of each stem of the published set that shares a photograph with another.

    Raises:
        ValueError: if the table is damaged.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [
                (parse_name(row["file_name"]).stem, parse_name(f"{row['group']}.jpg").stem)
                for row in csv.DictReader(file)
            ]
    except (Skipped, KeyError, TypeError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is damaged: take that of the repository. Received: {error!r}") from None
    shared = {stem: group for stem, group in rows if stem != group}
    return shared | {group: group for group in shared.values()}


def assign_groups(stems: Sequence[str], pairs: NDArray[np.intp], known: Mapping[str, str]) -> list[str]:
    """Returns the name of each image's photograph group.

    Args:
        stems: of the images' names; equal stems are one photograph.
        pairs: [pairs, 2], indices of images of the same photograph.
        known: the groups of stems of the published set.

    Returns:
        For each image the known name of its group, or else the first of the group's stems in sorted order. If images
        join two known groups, these become one, with the first name: a leak would be worse than a move.
    """
    names = sorted({*stems, *known.values()})
    node = {name: index for index, name in enumerate(names)}
    own = np.fromiter((node[stem] for stem in stems), np.intp, len(stems))
    named = np.fromiter((node[known.get(stem, stem)] for stem in stems), np.intp, len(stems))
    first, second = np.concatenate([np.stack([own, named], 1), own[pairs]]).T
    links = sparse.coo_matrix((np.ones(len(first), bool), (first, second)), (len(names), len(names)))
    component = sparse.csgraph.connected_components(links, directed=False)[1]
    best: dict[int, str] = {}
    for name in [*sorted(set(known.values())), *names]:  # known names come first
        best.setdefault(component[node[name]], name)
    return [best[component[index]] for index in own]


def find_conflicts(group_names: Sequence[str], labels: Sequence[Labels]) -> tuple[list[bool], list[bool]]:
    """Returns for each image whether its group has several ages, and whether it has both genders."""
    first: dict[str, Labels] = {}
    ages, genders = set(), set()
    for group, label in zip(group_names, labels, strict=True):
        if label.age != first.setdefault(group, label).age:
            ages.add(group)
        if label.gender != first[group].gender:
            genders.add(group)
    return [group in ages for group in group_names], [group in genders for group in group_names]
