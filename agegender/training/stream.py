"""The training data from any step on, whatever they are read from."""

from typing import Any

import keras


def data_from(train: Any, step: int, steps_per_epoch: int) -> Any:
    """The training data as they are from a step on.

    Args:
        train: as for `train`. `load_utkface` gives its own way to begin later, `from_step(step)`, which decodes no
            image in vain. Any other `tf.data.Dataset` is gone through up to there, and has to be the same each time
            it is: one that shuffles anew each time needs a `from_step` of its own. A `PyDataset` begins at any batch.
        step: steps before.
        steps_per_epoch: batches an epoch.

    Returns:
        The data, for `fit`.

    Raises:
        ValueError: for data which can only be begun at the beginning.
    """
    if hasattr(train, "from_step"):
        return train.from_step(step)
    if hasattr(train, "element_spec"):
        return train.repeat().skip(step)  # in one iteration, which no end of an epoch begins again
    if isinstance(train, keras.utils.PyDataset):
        return train if step % (train.num_batches or steps_per_epoch) == 0 else _Later(train, step)
    if step == 0:
        return train
    raise ValueError(
        f"To go on at step {step}, `train` must be a `tf.data.Dataset`, a `keras.utils.PyDataset`, or offer "
        f"`from_step(step)`, the data from a step on. Received: a {type(train).__name__}"
    )


class _Later(keras.utils.PyDataset):
    """The batches of another, in turn, from a later one on."""

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
