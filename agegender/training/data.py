"""Training data: check them against the contract, iterate over them, skip to any step."""

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import keras
import numpy as np

from agegender.models.contract import ContractError, check_batch, name_targets

_CANNOT_SKIP: Final = (
    "To resume at step {}, `data` must be a `tf.data.Dataset`, a `keras.utils.PyDataset`, or have a method "
    "`from_step(step)` that returns the data from a step on. Received: a {}"
)
_Check = Callable[[Any, int], tuple[Any, ...]]  # takes a batch and its number, from 1


def check_type(data: Any, name: str) -> None:
    """Raises ValueError for data that are no dataset, or an empty one."""
    is_iterable = isinstance(data, keras.utils.PyDataset) or hasattr(data, "__iter__")
    if not is_iterable or isinstance(data, list | tuple | dict | str | bytes | np.ndarray):
        raise ValueError(
            f"`{name}` must be a `tf.data.Dataset`, a `keras.utils.PyDataset` or a generator of batches, such as "
            "`tf.data.Dataset.from_tensor_slices((images, targets)).batch(32)`. "
            f"Received: {name} of type {type(data).__name__}"
        )
    if find_length(data) == 0:
        raise ContractError(f"`{name}` must have a batch or more. Received: {type(data).__name__} without any")


def check_data(
    data: Any, heads: Sequence[str], image_size: int, name: str, *, epochs: int = 1, steps_per_epoch: int | None = None
) -> Any:
    """Checks a dataset before the first step, and lets each batch of a `PyDataset` or a generator be checked.

    No batch is read of a `tf.data.Dataset` that is right: its order may depend on how often it is iterated. `Learner`
    checks the values of every batch.

    Args:
        data: as for `train`.
        heads: the outputs of the model.
        image_size: pixels a side.
        name: of the argument, for the error.
        epochs: number of epochs.
        steps_per_epoch: batches per epoch; None for data that are read as a whole in each epoch.

    Returns:
        The data: `CheckedBatches`, `CheckedGenerator`, or a `tf.data.Dataset` as it was.

    Raises:
        ContractError: as `contract.check_batch`.
        ValueError: for endless data without `steps_per_epoch`.
    """
    if steps_per_epoch is None and (isinstance(data, Iterator) or _is_endless(data)):
        raise ValueError(
            f"`{name}` must end and start again in each epoch: a `tf.data.Dataset` without `repeat()`, or a "
            f"`keras.utils.PyDataset` with a length. Received: {name} of type {type(data).__name__}"
        )
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

    def check(batch: Any, number: int) -> tuple[Any, ...]:
        return _check_and_name(batch, heads, image_size, f"Batch {number} of `{name}`")

    if isinstance(data, keras.utils.PyDataset):
        return CheckedBatches(data, check, steps_per_epoch)
    if isinstance(data, Iterator):
        return CheckedGenerator(itertools.chain([first], data), check, name, epochs * (steps_per_epoch or 0))
    return data


def find_length(data: Any) -> int | None:
    """Returns the number of batches; None if it is unknown or there is no end."""
    if isinstance(data, keras.utils.PyDataset):
        return data.num_batches
    try:
        return len(data)
    except TypeError:  # a generator, or a `tf.data.Dataset` that is infinite or of unknown length
        return None


def _is_endless(data: Any) -> bool:
    if isinstance(data, keras.utils.PyDataset):
        return data.num_batches is None
    return hasattr(data, "cardinality") and int(data.cardinality()) == -1  # tf.data.INFINITE_CARDINALITY


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

    def on_epoch_begin(self) -> None:
        self._batches.on_epoch_begin()

    def on_epoch_end(self) -> None:
        self._batches.on_epoch_end()


class CheckedBatches(_SkippedBatches):
    """The batches of another dataset, each checked, with the targets as a dict.

    Args:
        batches: the other dataset.
        check: takes a batch and its number, from 1.
        steps_per_epoch: if the number of batches is no multiple of it, they are repeated without end: Keras would end
            the epoch early.

    Attributes:
        error: what the other dataset or the check raised; Keras and TensorFlow turn it into an error of their own.
    """

    def __init__(self, batches: keras.utils.PyDataset, check: _Check, steps_per_epoch: int | None) -> None:
        super().__init__(batches, 0)
        self._check, self._steps_per_epoch = check, steps_per_epoch
        self.error: Exception | None = None

    @property
    def num_batches(self) -> int | None:
        count = self._batches.num_batches
        return None if count and self._steps_per_epoch and count % self._steps_per_epoch else count

    def __getitem__(self, index: int) -> Any:
        count = self._batches.num_batches
        index = index % count if count else index
        try:
            return self._check(self._batches[index], index + 1)
        except Exception as error:
            self.error = error
            raise


class CheckedGenerator(Iterator):
    """The batches of a generator, each checked, with the targets as a dict.

    Args:
        batches: of the generator.
        check: takes a batch and its number, from 1.
        name: of the argument, for the error.
        steps: the number of batches that there must be.

    Attributes:
        error: as in `CheckedBatches`.
    """

    def __init__(self, batches: Iterator[Any], check: _Check, name: str, steps: int) -> None:
        self._batches, self._check, self._name, self._steps = batches, check, name, steps
        self._count, self._lock = 0, threading.Lock()  # Keras reads ahead in a thread of its own
        self.error: Exception | None = None

    def __next__(self) -> Any:
        try:
            with self._lock:
                batch = next(self._batches, None)
                if batch is None and self._count < self._steps:
                    raise ContractError(
                        f"`{self._name}` must have {self._steps} batches, one for each step of the run. Received: a "
                        f"generator that ended after {self._count}"
                    )
                if batch is None:
                    raise StopIteration
                self._count += 1
                return self._check(batch, self._count)
        except Exception as error:
            self.error = None if isinstance(error, StopIteration) else error
            raise

    def from_step(self, step: int) -> Iterator[Any]:
        """The batches from a step on, which this process must have reached."""
        if step and not self._count:
            raise ValueError(_CANNOT_SKIP.format(step, "generator"))
        return (batch for batch in self)  # Keras takes no other iterator than a generator


def _make_example(spec: Any) -> Any:
    """A batch of zeros with the shapes and dtypes of a `tf.data.Dataset`; the weights alone may have a known length."""
    rows = next((each.shape[0] for each in keras.tree.flatten(spec) if each.shape[:1] and each.shape[0]), 1)
    return keras.tree.map_structure(
        lambda each: np.zeros(
            [side or (1 if axis else rows) for axis, side in enumerate(each.shape)], each.dtype.as_numpy_dtype
        ),
        spec,
    )


def iterate_batches(data: Any) -> Iterator[Any]:
    """Iterates over the batches of a dataset, once."""
    if not isinstance(data, keras.utils.PyDataset):
        return iter(data)
    indices = itertools.count() if data.num_batches is None else range(data.num_batches)
    return (data[index] for index in indices)


def repeat_checked_batches(data: Any, heads: Sequence[str], image_size: int, name: str) -> Iterator[tuple[Any, ...]]:
    """Repeats the batches of a dataset without end, each checked, with the targets as a dict."""
    for batch in itertools.chain.from_iterable(iterate_batches(data) for _ in itertools.count()):
        yield _check_and_name(batch, heads, image_size, f"A batch of `{name}`")


def _check_and_name(batch: Any, heads: Sequence[str], image_size: int, where: str) -> tuple[Any, ...]:
    """Checks a batch and returns it with the targets as a dict, and without weights that are None."""
    check_batch(batch, heads, image_size, where=where)
    images, targets, *weights = batch
    return images, name_targets(targets, heads), *(each for each in weights if each is not None)


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
        is_start = step == 0 or (data.num_batches is not None and step % data.num_batches == 0)
        return data if is_start else _SkippedBatches(data, step)
    if step == 0:
        return data
    raise ValueError(_CANNOT_SKIP.format(step, type(data).__name__))
