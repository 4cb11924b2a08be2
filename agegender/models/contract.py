"""The data contract: checks that batches of images and targets are what the models expect.

A batch is (images, targets) or (images, targets, sample_weight). Images are uint8 RGB [batch, size, size, 3] in 0..255.
Targets are a dict or a tuple in the order of the heads: ages [batch, 1] in 0..116 years, genders [batch, 1], 0 = male
and 1 = female. sample_weight has a number of 0 or more for each image, or for each head and image.

`check_batch` looks at a batch on the host. `is_valid` is cheap enough for every training step.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from agegender.schema import AGE, MAX_AGE, MIN_AGE

_ENOUGH_AGES = 8  # in a batch: if all are below 1 then, they were divided by the highest


class ContractError(ValueError):
    """A batch does not follow the data contract."""


def name_targets(targets: Any, heads: Sequence[str], *, name: str = "targets") -> dict[str, Any]:
    """Returns the targets of some heads as a dict.

    Args:
        targets: a mapping with a key for each head, a sequence in the order of the heads, or one array for one head.
        heads: of `schema.HEADS`, in the order of the model's outputs.
        name: what the error calls the targets.

    Raises:
        ContractError: if there are other keys or another number of targets.

    Example:

    >>> name_targets(([[30.0]], [[1.0]]), ["age", "gender"])
    {'age': [[30.0]], 'gender': [[1.0]]}
    """
    if isinstance(targets, Mapping):
        if not set(heads) <= set(targets):
            raise ContractError(
                f"{name} must have the keys {list(heads)}, the heads of the model. Received the keys: {list(targets)}"
            )
        return {head: targets[head] for head in heads}
    parts = list(targets) if isinstance(targets, tuple | list) else [targets]
    if len(parts) != len(heads):
        raise ContractError(
            f"{name} must be a dict with the keys {list(heads)}, or a tuple in that order. "
            f"Received: {len(parts)} {name}"
        )
    return dict(zip(heads, parts, strict=True))


def name_weights(sample_weight: Any, heads: Sequence[str]) -> Any:
    """Returns sample weights as a dict if there are some for each head; otherwise as they are."""
    for_heads = isinstance(sample_weight, Mapping | tuple | list)
    return name_targets(sample_weight, heads, name="sample_weight") if for_heads else sample_weight


def is_valid(images: Any, targets: Mapping[str, Any], sample_weight: Any = None) -> Any:
    """Whether the values of a batch are in range and finite, as a boolean scalar tensor; runs on the accelerator.

    Args:
        images: uint8, or anything else, which is not looked at.
        targets: as from `name_targets`.
        sample_weight: as from `name_weights`.
    """
    valid = ops.convert_to_tensor(True)
    if keras.backend.standardize_dtype(getattr(images, "dtype", None)) == "uint8":
        highest = ops.max(images)
        valid = (highest == 0) | (highest > 1)  # 1: divided by 255, then cast
    for head, values in targets.items():
        values = ops.cast(values, "float32")
        in_range = (values >= MIN_AGE) & (values <= MAX_AGE) if head == AGE else (values == 0) | (values == 1)
        valid = valid & ops.all(in_range)
        if head == AGE:
            valid = valid & ~_look_divided(values, ops)
    for weights in keras.tree.flatten(sample_weight):
        if weights is not None:
            weights = ops.cast(weights, "float32")
            valid = valid & ops.all((weights >= 0) & (weights < float("inf")))
    return valid


def _look_divided(ages: Any, module: Any) -> Any:
    """Whether ages look divided by the highest one; `module` is `keras.ops` for tensors, or `numpy`."""
    return (module.size(ages) >= _ENOUGH_AGES) & (module.max(ages) <= 1) & module.any(ages != module.floor(ages))


def check_batch(batch: Any, heads: Sequence[str], image_size: int | None = None, *, where: str = "The batch") -> None:
    """Checks a whole batch against the contract.

    Args:
        batch: (images, targets) or (images, targets, sample_weight), as arrays or tensors.
        heads: the outputs of the model, of `schema.HEADS`.
        image_size: pixels a side; None for any.
        where: what the error calls the batch, such as "The first batch of `data`".

    Raises:
        ContractError: names the batch, the value received and the remedy.

    Example:

    >>> import numpy as np
    >>> images, ages = np.full([1, 64, 64, 3], 128, "uint8"), np.array([[30.0]])
    >>> check_batch((images, {"age": ages}), ["age"], 64)
    >>> check_batch((images / 255, {"age": ages}), ["age"])  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    ContractError: ...divided by 255...
    """
    try:
        if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
            raise ContractError(
                "it must be (images, targets) or (images, targets, sample_weight). Received: "
                + (f"a tuple of {len(batch)}" if isinstance(batch, tuple | list) else type(batch).__name__)
            )
        images, targets, *weights = batch
        images = _to_numpy(images, "images")
        _check_images(images, image_size)
        for head, values in name_targets(targets, heads).items():
            _check_targets(head, _to_numpy(values, f"{head} targets"), len(images))
        for values in keras.tree.flatten([name_weights(each, heads) for each in weights if each is not None]):
            _check_weights(_to_numpy(values, "sample_weight"), len(images))
    except ContractError as error:
        raise ContractError(f"{where} breaks the data contract: {error}.") from None


def _to_numpy(values: Any, name: str) -> np.ndarray:
    try:
        return np.asarray(ops.convert_to_numpy(values))
    except (TypeError, ValueError) as error:
        raise ContractError(f"{name} must be a numeric array. Received: {type(values).__name__} ({error})") from None


def _check_images(images: np.ndarray, size: int | None) -> None:
    expected = f"[batch, {size or 'size'}, {size or 'size'}, 3]"
    is_square = images.ndim == 4 and images.shape[3] == 3 and images.shape[1] == images.shape[2]
    if not is_square or not len(images):
        raise ContractError(f"images must have the shape {expected}. Received: shape={list(images.shape)}")
    if size not in (None, images.shape[1]):
        raise ContractError(
            f"images must have {size} pixels a side, as the model; resize them, or load them with "
            f"`load_utkface(..., image_size={size})`. Received: {images.shape[1]} pixels"
        )
    if images.dtype.kind not in "fiub":
        raise ContractError(f"images must be uint8. Received: dtype={images.dtype}")
    if images.dtype != np.uint8 or 0 < images.max() <= 1:
        low, high = images.min(), images.max()
        advice = "pass them as uint8"
        if low >= 0 and 0 < high <= 1:
            advice = "they look divided by 255; leave that out, the model does it"
        elif low < 0 and images.dtype.kind == "f":
            advice = "they look normalized; leave that out, the model does it"
        raise ContractError(
            f"images must be uint8 in 0..255: {advice}. Received: dtype={images.dtype}, values in {low:g}..{high:g}"
        )


def _check_targets(head: str, values: np.ndarray, count: int) -> None:
    if values.shape != (count, 1):
        raise ContractError(
            f"{head} targets must have the shape [{count}, 1], such as `targets[:, None]`. "
            f"Received: shape={list(values.shape)}"
        )
    if values.dtype.kind not in "fiub":
        raise ContractError(f"{head} targets must be numbers. Received: dtype={values.dtype}")
    values = values.astype("float64")
    if head == AGE:
        wrong = ~((values >= MIN_AGE) & (values <= MAX_AGE))
        expected = f"ages must be finite and in {MIN_AGE}..{MAX_AGE} years; drop or correct the others"
        if not wrong.any() and _look_divided(values, np):
            raise ContractError(
                "ages must be in years: they look divided by the highest one. "
                f"Received: ages of {values.min():g} to {values.max():g}"
            )
    else:
        wrong = ~((values == 0) | (values == 1))
        expected = "genders must be 0 (male) or 1 (female); recode them"
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ContractError(f"{expected}. Received: {head}={values[row, 0]:g} in row {row}")


def _check_weights(weights: np.ndarray, count: int) -> None:
    if weights.shape not in ((count,), (count, 1)) or not np.isfinite(weights).all() or (weights < 0).any():
        raise ContractError(
            f"sample_weight must be {count} finite numbers of 0 or more. Received: shape={list(weights.shape)}, "
            f"values={np.ravel(weights)[:4]}"
        )
