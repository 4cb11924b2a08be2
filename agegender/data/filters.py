"""Selects images by their labels: ages, genders, races, folds, conflicts."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
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
    MAX_AGE,
    MIN_AGE,
    RACE,
    RACES,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelFilter:
    """Selects images by their labels. An image matches if it satisfies every condition that is not None.

    Sequences may be tuples, lists, ranges or numpy arrays.

    Args:
        ages: lowest and highest age, both included, in 0..116 years. Papers on UTKFace use (21, 60).
        genders: names from `schema.GENDERS`.
        races: names from `schema.RACES`.
        folds: numbers in 0..4.
        conflicts: if False, excludes images whose photograph group has several ages or both genders.

    Raises:
        ValueError: if a value is outside its range.

    Example:

    >>> print(LabelFilter(ages=(21, 60), genders=["female"]))
    ages=(21, 60), genders=('female',)
    """

    ages: tuple[int, int] | None = None
    genders: Sequence[str] | None = None
    races: Sequence[str] | None = None
    folds: Sequence[int] | None = None
    conflicts: bool = True

    def __post_init__(self) -> None:
        checked = {
            "ages": _check_ages(self.ages),
            "genders": _check_choices("genders", self.genders, GENDERS),
            "races": _check_choices("races", self.races, RACES),
            "folds": _check_choices("folds", self.folds, range(FOLDS)),
        }
        if not isinstance(self.conflicts, bool | np.bool_):
            raise ValueError(f"`conflicts` must be True or False. Received: conflicts={self.conflicts!r}")
        for name, value in {**checked, "conflicts": bool(self.conflicts)}.items():
            object.__setattr__(self, name, value)  # the dataclass is frozen

    def __str__(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.conditions().items())

    def conditions(self) -> dict[str, Any]:
        """Returns the conditions that differ from their defaults, by name."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if getattr(self, f.name) != f.default}

    def features(self) -> dict[str, tuple[str, ...]]:
        """Returns the features that each condition reads.

        >>> LabelFilter(folds=(0, 1), conflicts=False).features()
        {'folds': ('fold',), 'conflicts': ('age_conflict', 'gender_conflict')}
        """
        features = {
            "ages": (AGE,),
            "genders": (GENDER,),
            "races": (RACE,),
            "folds": (FOLD,),
            "conflicts": (AGE_CONFLICT, GENDER_CONFLICT),
        }
        return {name: features[name] for name in self.conditions()}

    def matches(self, labels: Mapping[str, NDArray]) -> NDArray[np.bool_]:
        """Returns which images satisfy all conditions.

        Args:
            labels: arrays of equal shape, one or more, among them those of `features()`: ages in years, codes as
                prepared.

        Returns:
            Booleans of that shape.

        Example:

        >>> LabelFilter(ages=(21, 60)).matches({"age": np.array([20, 21, 60, 61])}).tolist()
        [False, True, True, False]
        """
        matched = np.ones(np.shape(next(iter(labels.values()))), bool)
        if self.ages is not None:
            matched &= (labels[AGE] >= self.ages[0]) & (labels[AGE] <= self.ages[1])
        if self.genders is not None:
            matched &= np.isin(labels[GENDER], [GENDERS.index(name) for name in self.genders])
        if self.races is not None:
            matched &= np.isin(labels[RACE], [RACES.index(name) for name in self.races])
        if self.folds is not None:
            matched &= np.isin(labels[FOLD], self.folds)
        if not self.conflicts:
            matched &= (labels[AGE_CONFLICT] == 0) & (labels[GENDER_CONFLICT] == 0)
        return matched


def _check_ages(ages: Any) -> tuple[int, int] | None:
    if ages is None:
        return None
    low, high = pair if len(pair := _to_list(ages) or []) == 2 else (None, None)
    if type(low) is not int or type(high) is not int or not MIN_AGE <= low <= high <= MAX_AGE:
        raise ValueError(
            f"`ages` must be the lowest and the highest age, two integers in {MIN_AGE}..{MAX_AGE}, such as (21, 60). "
            f"Received: ages={ages!r}"
        )
    return low, high


def _check_choices(name: str, values: Any, allowed: Collection) -> tuple | None:
    if values is None:
        return None
    chosen = _to_list(values)
    if chosen is None:
        is_choice = isinstance(values, str | int) and values in allowed
        example = f"{name}=({values!r},)" if is_choice else f"{name}={tuple(allowed)[:2]!r}"
        raise ValueError(
            f"`{name}` must be a sequence of values from {tuple(allowed)}, such as {example}. "
            f"Received: {name}={values!r}"
        )
    if not chosen or any(type(value) is bool or value not in allowed for value in chosen):
        raise ValueError(f"`{name}` must contain one or more of {tuple(allowed)}. Received: {name}={values!r}")
    return tuple(chosen)


def _to_list(values: Any) -> list | None:
    """Returns a sequence or one-dimensional array as a list of Python values; None for anything else."""
    if isinstance(values, np.ndarray) and values.ndim == 1:
        return values.tolist()
    if isinstance(values, Sequence) and not isinstance(values, str | bytes):
        return [value.item() if isinstance(value, np.generic) else value for value in values]
    return None
