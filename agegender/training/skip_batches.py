"""Training data from any step on, so that a run can resume in the middle of an epoch."""

from typing import Any

import keras


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
