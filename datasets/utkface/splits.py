"""Photograph groups, and the split and the fold that each goes to as a whole.

Images of the same photograph form a group, which is named after the first of its images' stems. The split is a hash
of that name and of nothing else, so that a missing or an added image moves no other group. Within a group the name
itself could go missing; `splits.csv` therefore keeps the groups of the published set, and whoever is in one of those
stays in it, whichever of the others are there.
"""

import csv
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from .labels import SPLITS, Labels, parse_name

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


def read_table(path: Path = TABLE) -> dict[str, str]:
    """Returns the group of each stem of the published set, as far as it shares one with another image."""
    with path.open(newline="") as file:
        rows = [(parse_name(row["file_name"]).stem, row["group"]) for row in csv.DictReader(file)]
    return {stem: group for stem, group in rows if stem != group} | {
        group: group for stem, group in rows if stem != group
    }


def groups(stems: Sequence[str], pairs: NDArray[np.intp], known: Mapping[str, str]) -> list[str]:
    """Returns the name of each image's photograph group.

    Args:
        stems: of the images' names; equal ones are one photograph.
        pairs: [pairs, 2], indices of images that show the same photograph.
        known: the group of stems, where it is known beforehand; of `read_table`.

    Returns:
        For each image the known name of its group, or else the least of its stems. Where images join two known
        groups, these become one with the lesser name: a leak would be worse than a move.
    """
    names = sorted({*stems, *known.values()})
    node = {name: index for index, name in enumerate(names)}
    own = np.fromiter((node[stem] for stem in stems), np.intp, len(stems))
    told = np.fromiter((node[known.get(stem, stem)] for stem in stems), np.intp, len(stems))
    first, second = np.concatenate([np.stack([own, told], 1), own[pairs]]).T
    links = sparse.coo_matrix((np.ones(len(first), bool), (first, second)), (len(names), len(names)))
    component = sparse.csgraph.connected_components(links, directed=False)[1]
    best: dict[int, str] = {}
    for name in [*sorted(set(known.values())), *names]:  # a known name before the least stem
        best.setdefault(component[node[name]], name)
    return [best[component[index]] for index in own]


def conflicts(group_names: Sequence[str], labels: Sequence[Labels]) -> tuple[list[bool], list[bool]]:
    """Says for each image whether its group's images carry several ages, and whether they carry both genders."""
    first: dict[str, Labels] = {}
    ages, genders = set(), set()
    for group, label in zip(group_names, labels, strict=True):
        if label.age != first.setdefault(group, label).age:
            ages.add(group)
        if label.gender != first[group].gender:
            genders.add(group)
    return [group in ages for group in group_names], [group in genders for group in group_names]
