"""`agegender.models.contract`: what a batch must be, on the host and on the accelerator."""

import re
from typing import Any

import numpy as np
import pytest

from agegender.models import contract

HEADS = ["age", "gender"]
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), "uint8")
AGES = np.array([[0.0], [33.5], [116.0]], "float32")
GENDERS = np.array([[0], [1], [1]])


@pytest.mark.parametrize("targets", [{"age": AGES, "gender": GENDERS, "race": AGES}, (AGES, GENDERS), [AGES, GENDERS]])
def test_batches_that_follow_the_contract(targets: Any) -> None:
    contract.check_batch((IMAGES, targets), HEADS, 8)
    contract.check_batch((IMAGES, targets, np.array([[0.0], [1.0], [2.0]])), HEADS)
    named = contract.name_targets(targets, HEADS)
    assert list(named) == HEADS and named["age"] is AGES and named["gender"] is GENDERS
    assert bool(contract.is_valid(IMAGES, named))


def test_one_target_of_one_head_needs_no_tuple() -> None:
    assert contract.name_targets(AGES, ["age"])["age"] is AGES
    contract.check_batch((np.zeros_like(IMAGES), AGES), ["age"])


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (IMAGES, "must be (images, targets) or (images, targets, sample_weight). Received: ndarray"),
        ((IMAGES / 255, AGES), "they look divided by 255; leave that out, the model does it. Received: dtype=float64"),
        (((IMAGES // 255), AGES), "they look divided by 255; leave that out, the model does it. Received: dtype=uint8"),
        ((IMAGES / 127.5 - 1, AGES), "they look normalized; leave that out, the model does it"),
        ((IMAGES, AGES, AGES, AGES), "Received: a tuple of 4"),
        ((IMAGES.astype("float32"), AGES), "pass them as uint8. Received: dtype=float32, values in 0..255"),
        ((IMAGES.astype(str), AGES), "images must be uint8. Received: dtype=<U"),
        ((IMAGES[0], AGES), "the shape [batch, 8, 8, 3]. Received: shape=[8, 8, 3]"),
        ((IMAGES[..., :1], AGES), "the shape [batch, 8, 8, 3]. Received: shape=[3, 8, 8, 1]"),
        ((IMAGES[:, :4], AGES), "the shape [batch, 8, 8, 3]. Received: shape=[3, 4, 8, 3]"),
        ((IMAGES[:0], AGES[:0]), "Received: shape=[0, 8, 8, 3]"),
        ((IMAGES[:, :4, :4], AGES), "images must have 8 pixels a side, as the model"),
        ((IMAGES, (AGES, GENDERS)), "must be a dict with the keys ['age'], or a tuple in that order. Received: 2"),
        ((IMAGES, {"gender": GENDERS}), "must have the keys ['age'], the heads of the model. Received the keys: ['g"),
        ((IMAGES, AGES[:, 0]), "age targets must have the shape [3, 1], such as `targets[:, None]`"),
        ((IMAGES, AGES[:2]), "age targets must have the shape [3, 1]"),
        ((IMAGES, AGES.astype(str)), "age targets must be numbers"),
        ((IMAGES, AGES, np.array([1.0, 2.0])), "sample_weight must be 3 finite numbers of 0 or more"),
        ((IMAGES, AGES, {"years": np.ones(3)}), "sample_weight must have the keys ['age']"),
        (
            (IMAGES, AGES, np.ones((3, 2))),
            "sample_weight must be 3 finite numbers of 0 or more. Received: shape=[3, 2]",
        ),
        ((IMAGES, AGES, np.array([1.0, -1.0, 1.0])), "sample_weight must be 3 finite numbers of 0 or more"),
    ],
)
def test_batches_that_break_the_contract(batch: Any, message: str) -> None:
    with pytest.raises(contract.ContractError, match="Batch 7 breaks the data contract: .*" + re.escape(message)):
        contract.check_batch(batch, ["age"], 8, where="Batch 7")


@pytest.mark.parametrize(
    ("head", "value"),
    [("age", -1.0), ("age", 117.0), ("age", np.nan), ("age", np.inf), ("gender", 2.0), ("gender", 0.5)],
)
def test_targets_out_of_range_are_found_on_host_and_accelerator(head: str, value: float) -> None:
    targets = {"age": AGES.copy(), "gender": GENDERS.astype("float32")}
    targets[head][2] = value
    assert not bool(contract.is_valid(IMAGES, targets))
    with pytest.raises(contract.ContractError, match=f"Received: {head}={value:g} in row 2"):
        contract.check_batch((IMAGES, targets), HEADS)


def test_images_divided_by_255_are_found_on_the_accelerator() -> None:
    assert not bool(contract.is_valid(IMAGES // 255, {"age": AGES}))
    assert bool(contract.is_valid(np.zeros_like(IMAGES), {"age": AGES}))
    assert bool(contract.is_valid(np.full((2, 4), 0.5), {"age": AGES}))  # cached features


def test_ages_divided_by_the_highest_are_found_on_host_and_accelerator() -> None:
    images, ages = np.tile(IMAGES, (3, 1, 1, 1))[:8], np.linspace(1, 90, 8, dtype="float32")[:, None]
    for right in (ages, ages // 90, ages[:7] / 90):  # years, infants in whole years, too few to tell
        contract.check_batch((images[: len(right)], right), ["age"])
        assert bool(contract.is_valid(images, {"age": right}))
    assert not bool(contract.is_valid(images, {"age": ages / 90}))
    with pytest.raises(contract.ContractError, match=r"divided by the highest one\. Received: ages of 0\.0111\d+ to 1"):
        contract.check_batch((images, ages / 90), ["age"])


@pytest.mark.parametrize("wrong", [-1.0, np.nan, np.inf])
def test_sample_weights_are_checked_on_the_accelerator(wrong: float) -> None:
    right, weights = np.ones(3, "float32"), np.array([1, wrong, 1], "float32")
    assert bool(contract.is_valid(IMAGES, {"age": AGES}, {"age": right}))
    assert not bool(contract.is_valid(IMAGES, {"age": AGES}, weights))
    assert not bool(contract.is_valid(IMAGES, {"age": AGES}, contract.name_weights((right, weights), HEADS)))
