"""What can be counted: plain numbers, ready for JSON, for tables and for plots."""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agegender.schema import (
    AGE,
    AGE_CONFLICT,
    FOLD,
    FOLDS,
    GENDER,
    GENDER_CONFLICT,
    GENDERS,
    GROUP,
    RACE,
    RACES,
    SPLITS,
)
from experiments.exploring.table import BYTES, SIZE, SPLIT, Table

FEMALE = GENDERS.index("female")


@dataclasses.dataclass(frozen=True)
class Groups:
    """The photograph groups, and for each what its images say.

    Attributes:
        names: [groups].
        of: int [images], the index of each image's group.
        sizes: int [groups], images in it.
        spreads: int [groups], years between its youngest and its oldest label.
        genders: int [groups], how many genders it carries, 1 or 2.
    """

    names: NDArray[Any]
    of: NDArray[np.intp]
    sizes: NDArray[np.intp]
    spreads: NDArray[Any]
    genders: NDArray[Any]


def find_groups(table: Table) -> Groups:
    """Puts the images of each photograph group together."""
    names, of, sizes = np.unique(table[GROUP], return_inverse=True, return_counts=True)
    least, most = np.full(len(names), np.iinfo(np.int64).max), np.full(len(names), -1)
    np.minimum.at(least, of, table[AGE])
    np.maximum.at(most, of, table[AGE])
    genders = np.bincount(np.unique(of * len(GENDERS) + table[GENDER]) // len(GENDERS), minlength=len(names))
    return Groups(names, of, sizes, most - least, genders)


def count(table: Table, groups: Groups, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Counts everything that the page tells.

    Args:
        table: the labels.
        groups: of `find_groups`.
        metadata: `builder.info.metadata`: what was seen, kept and skipped at build time.

    Returns:
        Numbers, strings and nested dictionaries of them. Shares are of 1, ages in years.
    """
    everything = np.ones(len(table), bool)
    return {
        "all": _portion(table, everything),
        "splits": {name: _portion(table, table[SPLIT] == name) for name in SPLITS if np.any(table[SPLIT] == name)},
        "folds": {str(fold): _portion(table, table[FOLD] == fold) for fold in range(FOLDS) if fold in table[FOLD]},
        "crossing": {
            race: {gender: int(np.sum((table[RACE] == r) & (table[GENDER] == g))) for g, gender in enumerate(GENDERS)}
            for r, race in enumerate(RACES)
        },
        "groups": {
            "count": len(groups.names),
            "by_size": _tally(groups.sizes),
            "images_not_alone": int(np.sum(groups.sizes[groups.sizes > 1])),
            "in_several_splits": _scattered(groups, np.unique(table[SPLIT], return_inverse=True)[1]),
            "in_several_folds": _scattered(groups, table[FOLD]),
        },
        "conflicts": {
            "age": _conflict(groups, table[AGE_CONFLICT]),
            "gender": _conflict(groups, table[GENDER_CONFLICT]),
            "either": _conflict(groups, table[AGE_CONFLICT] | table[GENDER_CONFLICT]),
            "age_spread": _spread(groups.spreads[groups.spreads > 0]),
        },
        "sizes": dict(Counter(" x ".join(map(str, size)) for size in table[SIZE].tolist()).most_common()),
        "mean_bytes": round(float(table[BYTES].mean()), 1),
        "build": {key: metadata[key] for key in ("seen", "kept", "skipped", "skipped_by_reason") if key in metadata},
    }


def _portion(table: Table, rows: NDArray[np.bool_]) -> dict[str, Any]:
    ages, races = table[AGE][rows], table[RACE][rows]
    genders = np.bincount(table[GENDER][rows], minlength=len(GENDERS))
    return {
        "count": len(ages),
        "share": len(ages) / len(table),
        "mean_age": float(ages.mean()),
        "age_quartiles": np.percentile(ages, [25, 50, 75]).tolist(),
        "youngest": int(ages.min()),
        "oldest": int(ages.max()),
        "genders": dict(zip(GENDERS, genders.tolist(), strict=True)),
        "female_share": float(genders[FEMALE] / len(ages)),
        "race_shares": {race: float(np.mean(races == code)) for code, race in enumerate(RACES)},
    }


def _tally(values: NDArray[Any]) -> dict[str, int]:
    return {str(value): int(number) for value, number in zip(*np.unique(values, return_counts=True), strict=True)}


def _scattered(groups: Groups, sides: NDArray[Any]) -> int:
    """How many groups are on several sides of a division: none should be."""
    pairs = np.unique(np.stack([groups.of, sides]), axis=1)
    return int(np.sum(np.bincount(pairs[0]) > 1))


def _conflict(groups: Groups, conflict: NDArray[np.bool_]) -> dict[str, Any]:
    return {
        "images": int(conflict.sum()),
        "share": float(conflict.mean()),
        "groups": len(np.unique(groups.of[conflict])),
    }


def _spread(spreads: NDArray[Any]) -> dict[str, Any]:
    if not len(spreads):
        return {"groups": 0, "median": None, "largest": None, "years": {}}
    return {
        "groups": len(spreads),
        "median": float(np.median(spreads)),
        "largest": int(spreads.max()),
        "years": _tally(spreads),
    }


def summary(numbers: Mapping[str, Any]) -> str:
    """The few numbers for the terminal, as a table: how many, share, mean age and share of women by split."""
    lines = [f"{'':<12}{'images':>10}{'share':>9}{'mean age':>10}{'female':>9}"]
    for name, part in {**numbers["splits"], "together": numbers["all"]}.items():
        lines.append(
            f"{name:<12}{part['count']:>10,}{part['share']:>9.1%}{part['mean_age']:>10.2f}{part['female_share']:>9.1%}"
        )
    return "\n".join(lines)
