"""Training data: check them against the contract, iterate over them, skip to any step."""

import itertools
import types
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from agegender.models.contract import ContractError, check_batch, name_targets


def check_data(data: Any, heads: Sequence[str], image_size: int, name: str) -> Any:
    """Checks shapes and dtypes of a dataset, and the values of the first batch unless it is a `tf.data.Dataset`.

    No batch is read of a `tf.data.Dataset` that is right: its order may depend on how often it is iterated. `Learner`
    checks the values of every batch.

    Args:
        data: as for `train`.
        heads: the outputs of the model.
        image_size: pixels a side.
        name: of the argument, for the error.

    Returns:
        The data, for `fit`; a generator has to be replaced by a new one, since its first batch was read.

    Raises:
        ContractError: as `contract.check_batch`.
    """
    where = f"The first batch of `{name}`"
    if hasattr(data, "element_spec"):
        try:
            check_batch(_make_example(data.element_spec), heads, image_size, where=where)
        except ContractError:
            check_batch(next(iter(data)), heads, image_size, where=where)  # says more, as it knows the values
            raise
        return data
    batches = iterate_batches(data)
    first = next(batches, None)
    if first is None:
        raise ContractError(f"`{name}` must have a batch or more. Received: {type(data).__name__} without any")
    check_batch(first, heads, image_size, where=where)
    return _chain(first, data) if isinstance(data, types.GeneratorType) else data


def _make_example(spec: Any) -> Any:
    """A batch of zeros with the shapes and dtypes of a `tf.data.Dataset`; the weights alone may have a known length."""
    rows = next((each.shape[0] for each in keras.tree.flatten(spec) if each.shape[:1] and each.shape[0]), 1)
    return keras.tree.map_structure(
        lambda each: np.zeros(
            [side or (1 if axis else rows) for axis, side in enumerate(each.shape)], each.dtype.as_numpy_dtype
        ),
        spec,
    )


def _chain(first: Any, others: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from others


def iterate_batches(data: Any) -> Iterator[Any]:
    """Iterates over the batches of a dataset, once."""
    if not isinstance(data, keras.utils.PyDataset):
        return iter(data)
    indices = itertools.count() if data.num_batches is None else range(data.num_batches)
    return (data[index] for index in indices)


def repeat_checked_batches(data: Any, heads: Sequence[str], image_size: int, name: str) -> Iterator[tuple[Any, ...]]:
    """Repeats the batches of a dataset without end, each checked, with the targets as a dict."""
    for batch in itertools.chain.from_iterable(iterate_batches(data) for _ in itertools.count()):
        check_batch(batch, heads, image_size, where=f"A batch of `{name}`")
        images, targets, *weights = batch
        yield images, name_targets(targets, heads), *weights


def find_invalid_batch(batches: Iterator[Any], heads: Sequence[str], image_size: int, where: str) -> None:
    """Checks batches one after another.

    Args:
        batches: to check.
        heads: the outputs of the model.
        image_size: pixels a side.
        where: name of a batch, with "{}" for its number, from 1.

    Raises:
        ContractError: for the first batch that breaks the contract.
    """
    for number, batch in enumerate(batches, 1):
        check_batch(batch, heads, image_size, where=where.format(number))


def skip_batches(data: Any, step: int, steps_per_epoch: int) -> Any:
    """Skips the batches of the first `step` steps.

    Args:
        data: training data, as for `train`. A dataset from `load_utkface` has its own method `from_step(step)`, which
            decodes no image that is skipped. Any other `tf.data.Dataset` is read up to the step and must give the
            same batches each time. A `PyDataset` starts at any batch.
        step: number of steps to skip.
        steps_per_epoch: batches per epoch.

    Returns:
        The data, for `fit`.

    Raises:
        ValueError: for data that can only be read from the start, such as a generator.
    """
    if hasattr(data, "from_step"):
        return data.from_step(step)
    if hasattr(data, "element_spec"):
        return data.repeat().skip(step)  # one iterator for all epochs: a new one would start at the skipped step again
    if isinstance(data, keras.utils.PyDataset):
        return data if step % (data.num_batches or steps_per_epoch) == 0 else _SkippedBatches(data, step)
    if step == 0:
        return data
    raise ValueError(
        f"To resume at step {step}, `data` must be a `tf.data.Dataset`, a `keras.utils.PyDataset`, or have a method "
        f"`from_step(step)` that returns the data from a step on. Received: a {type(data).__name__}"
    )


class _SkippedBatches(keras.utils.PyDataset):
    """The batches of another dataset, cyclically, starting at a later one."""

    def __init__(self, batches: keras.utils.PyDataset, step: int) -> None:
        super().__init__(batches.workers, batches.use_multiprocessing, batches.max_queue_size)
        self._batches, self._step = batches, step

    @property
    def num_batches(self) -> int | None:
        return self._batches.num_batches

    def __getitem__(self, index: int) -> Any:
        count = self._batches.num_batches
        return self._batches[(self._step + index) % count if count else self._step + index]

    def on_epoch_end(self) -> None:
        self._batches.on_epoch_end()
