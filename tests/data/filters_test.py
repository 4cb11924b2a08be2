"""LabelFilter on a column of labels, worked out by hand."""

import dataclasses
import re
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

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
def test_a_image_has_to_satisfy_every_condition(given: dict, indices: list[int]) -> None:
    conditions = LabelFilter(**given)
    assert np.flatnonzero(conditions.matches(LABELS)).tolist() == indices
    assert bool(conditions) == bool(given)


@pytest.mark.parametrize(("given", "indices"), CASES)
def test_a_tensor_in_a_dataset_gives_what_an_array_gives(given: dict, indices: list[int]) -> None:
    kept = tf.data.Dataset.from_tensor_slices(LABELS).filter(LabelFilter(**given).matches)
    assert [int(labels["age"]) for labels in kept] == LABELS["age"][indices].tolist()


def test_only_the_features_that_a_condition_needs_are_looked_at() -> None:
    conditions = LabelFilter(ages=(1, 2), genders=["male"], races=["Asian"])
    assert conditions.keys() == {"ages": ("age",), "genders": ("gender",), "races": ("race",)}
    conditions.matches({key: LABELS[key] for key in ("age", "gender", "race")})
    assert LabelFilter().keys() == {}


def test_conditions_do_not_change_and_read_as_they_were_given() -> None:
    conditions = LabelFilter(ages=(21, 60), conflicts=False)
    assert str(conditions) == "ages=(21, 60), conflicts=False"
    with pytest.raises(dataclasses.FrozenInstanceError):
        conditions.ages = None  # type: ignore[misc]


@pytest.mark.parametrize("ages", [(60, 21), (-1, 5), (0, 117), (21,), (21, 60, 70), 21, "21-60", (21.0, 60), (True, 5)])
def test_ages_that_are_no_range_are_named(ages: Any) -> None:
    with pytest.raises(ValueError, match=re.escape(f"such as (21, 60). Received: ages={ages!r}")):
        LabelFilter(ages=ages)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"genders": "male"}, "such as genders=('male',). Received: genders='male'"),
        ({"races": "Martian"}, "must be a sequence of some of ('White', 'Black', 'Asian', 'Indian', 'Others')"),
        ({"genders": ["man"]}, "must hold one or more of ('male', 'female'). Received: genders=['man']"),
        ({"races": ["asian"]}, "one or more of ('White', 'Black', 'Asian', 'Indian', 'Others')"),
        ({"races": []}, "one or more of"),
        ({"folds": [5]}, "one or more of (0, 1, 2, 3, 4). Received: folds=[5]"),
        ({"folds": 3}, "such as folds=(3,). Received: folds=3"),
        ({"folds": [True]}, "one or more of"),
        ({"folds": ["1"]}, "one or more of"),
        ({"conflicts": 0}, "`conflicts` must be True or False. Received: conflicts=0"),
        ({"conflicts": None}, "`conflicts`"),
    ],
)
def test_what_is_no_choice_is_named_with_the_choices(given: dict, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        LabelFilter(**given)
