"""LabelFilter on a column of labels, worked out by hand."""

import dataclasses
import re
from typing import Any

import numpy as np
import pytest

from agegender.data.filters import LabelFilter

LABELS = {
    "age": np.array([0, 20, 21, 40, 60, 61, 116]),
    "gender": np.array([0, 1, 0, 1, 0, 1, 0]),
    "race": np.array([0, 1, 2, 3, 4, 0, 1]),
    "fold": np.array([0, 1, 2, 3, 4, 0, 1]),
    "age_conflict": np.array([True, False, False, True, False, False, False]),
    "gender_conflict": np.array([False, False, False, True, False, True, False]),
}
CASES: list[tuple[dict[str, Any], list[int]]] = [
    ({}, [0, 1, 2, 3, 4, 5, 6]),
    ({"ages": (21, 60)}, [2, 3, 4]),
    ({"ages": [0, 0]}, [0]),
    ({"genders": ["female"]}, [1, 3, 5]),
    ({"genders": ("female", "male")}, [0, 1, 2, 3, 4, 5, 6]),
    ({"races": ("Black", "Others")}, [1, 4, 6]),
    ({"folds": range(1, 3)}, [1, 2, 6]),
    ({"conflicts": False}, [1, 2, 4, 6]),
    ({"ages": (0, 60), "genders": ["male"], "races": ["White", "Asian"], "folds": [0, 2], "conflicts": False}, [2]),
]


@pytest.mark.parametrize(("given", "indices"), CASES)
def test_images_match_every_condition(given: dict, indices: list[int]) -> None:
    label_filter = LabelFilter(**given)
    assert np.flatnonzero(label_filter.matches(LABELS)).tolist() == indices


def test_sequences_may_be_numpy_arrays() -> None:
    expected = LabelFilter(ages=(21, 60), genders=["male"], folds=(0, 1, 2, 3), conflicts=False)
    arrays = {"ages": np.array([21, 60]), "genders": np.array(["male"]), "folds": np.arange(4)}
    label_filter = LabelFilter(**arrays, conflicts=np.bool_(False))  # type: ignore[arg-type]
    assert label_filter == expected and str(label_filter) == str(expected)


def test_only_features_of_the_given_conditions_are_read() -> None:
    label_filter = LabelFilter(ages=(1, 2), genders=["male"], races=["Asian"])
    assert label_filter.features() == {"ages": ("age",), "genders": ("gender",), "races": ("race",)}
    label_filter.matches({key: LABELS[key] for key in ("age", "gender", "race")})
    assert LabelFilter().features() == {}


def test_filter_is_frozen_and_prints_its_conditions() -> None:
    label_filter = LabelFilter(ages=(21, 60), conflicts=False)
    assert str(label_filter) == "ages=(21, 60), conflicts=False"
    with pytest.raises(dataclasses.FrozenInstanceError):
        label_filter.ages = None  # type: ignore[misc]


@pytest.mark.parametrize(
    "ages", [(60, 21), (-1, 5), (0, 117), (21,), (21, 60, 70), 21, "21-60", (21.0, 60), (True, 5), np.array([[1, 2]])]
)
def test_bad_ages_are_refused(ages: Any) -> None:
    with pytest.raises(ValueError, match=re.escape(f"such as (21, 60). Received: ages={ages!r}")):
        LabelFilter(ages=ages)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"genders": "male"}, "such as genders=('male',). Received: genders='male'"),
        ({"races": "Martian"}, "must be a sequence of values from ('White', 'Black', 'Asian', 'Indian', 'Others')"),
        ({"genders": ["man"]}, "must contain one or more of ('male', 'female'). Received: genders=['man']"),
        ({"races": ["asian"]}, "one or more of ('White', 'Black', 'Asian', 'Indian', 'Others')"),
        ({"races": []}, "one or more of"),
        ({"folds": [5]}, "one or more of (0, 1, 2, 3, 4). Received: folds=[5]"),
        ({"folds": 3}, "such as folds=(3,). Received: folds=3"),
        ({"folds": np.int64(3)}, "such as folds=(0, 1). Received: folds=np.int64(3)"),
        ({"folds": np.array([[0, 1]])}, "such as folds=(0, 1). Received: folds=array([[0, 1]])"),
        ({"folds": [True]}, "one or more of"),
        ({"folds": ["1"]}, "one or more of"),
        ({"conflicts": 0}, "`conflicts` must be True or False. Received: conflicts=0"),
        ({"conflicts": None}, "`conflicts`"),
    ],
)
def test_bad_values_are_refused_with_the_allowed_ones(given: dict, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        LabelFilter(**given)
