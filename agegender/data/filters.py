"""LabelFilter on labels: which images of a split are wanted.

One frozen thing, so that whoever loads, counts or draws images means the same by the same words. It works on any
array that has `==`, `<=`, `&`, `|` and `~`: a numpy column of labels, or a tensor inside tf.data.
"""

import dataclasses
import functools
import operator
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from agegender.schema import (
    AGE,
    AGE_CONFLICT,
    FOLD,
    FOLDS,
    GENDER,
    GENDER_CONFLICT,
    GENDERS,
    MAX_AGE,
    MIN_AGE,
    RACE,
    RACES,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelFilter:
    """Which images are wanted; one image has to satisfy every condition that is given.

    Args:
        ages: the youngest and the oldest, both included, 0 to 116 years; (21, 60) is what papers on UTKFace use.
        genders: names from `schema.GENDERS`.
        races: names from `schema.RACES`.
        folds: numbers from 0 to 4.
        conflicts: false leaves out the images whose photograph group carries different ages or genders.

    Raises:
        ValueError: for a condition that no data set could understand.

    >>> print(LabelFilter(ages=(21, 60), genders=("female",)))
    ages=(21, 60), genders=('female',)
    """

    ages: tuple[int, int] | None = None
    genders: Sequence[str] | None = None
    races: Sequence[str] | None = None
    folds: Sequence[int] | None = None
    conflicts: bool = True

    def __post_init__(self) -> None:
        _check_ages(self.ages)
        _check_choice("genders", self.genders, GENDERS)
        _check_choice("races", self.races, RACES)
        _check_choice("folds", self.folds, range(FOLDS))
        if not isinstance(self.conflicts, bool):
            raise ValueError(f"`conflicts` must be True or False. Received: conflicts={self.conflicts!r}")

    def __bool__(self) -> bool:
        """Whether there is any condition."""
        return bool(self.given())

    def __str__(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.given().items())

    def given(self) -> dict[str, Any]:
        """The conditions that leave something out, by their names."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if getattr(self, f.name) != f.default}

    def keys(self) -> dict[str, tuple[str, ...]]:
        """For each condition that is given, the features that it looks at.

        >>> LabelFilter(folds=(0, 1), conflicts=False).keys()
        {'folds': ('fold',), 'conflicts': ('age_conflict', 'gender_conflict')}
        """
        features = {
            "ages": (AGE,),
            "genders": (GENDER,),
            "races": (RACE,),
            "folds": (FOLD,),
            "conflicts": (AGE_CONFLICT, GENDER_CONFLICT),
        }
        return {name: features[name] for name in self.given()}

    def matches(self, labels: Mapping[str, Any]) -> Any:
        """Says for which images all conditions hold.

        Args:
            labels: arrays or tensors of one shape, at least at those of `keys`; codes as prepared, ages in years.

        Returns:
            Booleans of that shape.

        >>> import numpy as np
        >>> LabelFilter(ages=(21, 60)).matches({"age": np.array([20, 21, 60, 61])}).tolist()
        [False, True, True, False]
        """
        terms = []
        if self.ages is not None:
            terms.append((labels[AGE] >= self.ages[0]) & (labels[AGE] <= self.ages[1]))
        if self.genders is not None:
            terms.append(_one_of(labels[GENDER], [GENDERS.index(name) for name in self.genders]))
        if self.races is not None:
            terms.append(_one_of(labels[RACE], [RACES.index(name) for name in self.races]))
        if self.folds is not None:
            terms.append(_one_of(labels[FOLD], self.folds))
        if not self.conflicts:
            terms.append(~(labels[AGE_CONFLICT] | labels[GENDER_CONFLICT]))
        return functools.reduce(operator.and_, terms) if terms else labels[AGE] >= MIN_AGE  # without any, all hold


def _one_of(values: Any, codes: Sequence[int]) -> Any:
    return functools.reduce(operator.or_, [values == code for code in codes])


def _check_ages(ages: Any) -> None:
    if ages is None:
        return
    is_pair = isinstance(ages, (tuple, list)) and len(ages) == 2 and all(type(age) is int for age in ages)
    if not is_pair or not MIN_AGE <= ages[0] <= ages[1] <= MAX_AGE:
        raise ValueError(
            f"`ages` must be the youngest and the oldest, two whole numbers from {MIN_AGE} to {MAX_AGE}, such as "
            f"(21, 60). Received: ages={ages!r}"
        )


def _check_choice(name: str, values: Any, known: Collection) -> None:
    if values is None:
        return
    if not isinstance(values, Sequence) or isinstance(values, (str, bytes)):
        example = f"{name}=({values!r},)" if values in tuple(known) else f"{name}={tuple(known)[:2]!r}"
        raise ValueError(
            f"`{name}` must be a sequence of some of {tuple(known)}, such as {example}. Received: {name}={values!r}"
        )
    if not values or any(type(value) is bool or value not in known for value in values):
        raise ValueError(f"`{name}` must hold one or more of {tuple(known)}. Received: {name}={values!r}")
