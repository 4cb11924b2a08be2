"""The frozen part of a trunk, computed once: its features on the disk, and what learns from them.

Where only the last layers learn, the same images go through the same frozen layers in every epoch. Here the first K
epochs of a run are recorded where the frozen part ends: each batch as the stream gave it, augmented as that step would
have been, with its targets. Training then replays record e mod K in epoch e. So up to K epochs are the very epochs of a
run without a cache, and later ones see K views of each image instead of ever new ones.

    split     the model into its frozen part and the rest, which share their weights with it
    record    K epochs of features, in the compute dtype, in one file that is mapped and not read into memory
    replay    batches of features; from epoch K on, the images of a record in another order

VGG16 before its last block takes 147 KB a image of 200 px in bfloat16 (12 x 12 x 512), 16 KB of 64 px.
"""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any, Final

import keras
import numpy as np

_SPARE: Final = 0.05  # of the disk's free space is left to others


def split_model(model: keras.Model) -> tuple[keras.Model, keras.Model]:
    """Cuts a model where its frozen part ends.

    Args:
        model: from `build_model`, on a trunk whose first layers do not learn.

    Returns:
        The frozen part, from images to features, and the rest, from features to the outputs of `model`. Both are
        made of the layers of `model` itself. The features are those of the last layers that depend on nothing that
        learns, poolings included: one tensor, or several where a shortcut crosses the cut.

    Raises:
        ValueError: if nothing of the trunk is frozen.

    Example:

    >>> from agegender import build_model, vggface_trunk
    >>> trunk = vggface_trunk("vgg16", image_size=64, weights=None, trainable="last_block", seed=1)
    >>> frozen, rest = split_model(build_model(trunk))
    >>> [tensor.shape for tensor in frozen.outputs], sorted(rest.output)
    ([(None, 4, 4, 512)], ['age', 'gender'])
    """
    trunk = next(layer for layer in model.layers if isinstance(layer, keras.Model))
    frozen = _frozen_tensors(trunk)
    still = [layer for layer in trunk.layers if _ids(layer.output) <= frozen.keys()]
    learning = [layer for layer in trunk.layers if layer not in still]
    used = keras.tree.flatten([layer.input for layer in learning]) if learning else trunk.outputs
    cut = list({id(tensor): tensor for tensor in used if id(tensor) in frozen}.values())
    if not any(layer.weights for layer in still):
        raise ValueError(
            "A cache of the trunk needs frozen layers at its beginning, such as those of `vggface_trunk(..., "
            f"trainable='last_block')`. Received: a trunk of which all {len(trunk.trainable_weights)} weights learn"
        )
    inputs = [keras.Input(tensor.shape[1:], dtype=tensor.dtype) for tensor in cut]
    features = keras.Model(_alone(cut), trunk.output)(_alone(inputs)) if learning else inputs[0]
    heads = keras.Model(model.layers[model.layers.index(trunk) + 1].input, model.output)
    frozen_part = keras.Model(trunk.inputs[0], _alone(cut), name="frozen")
    return frozen_part, keras.Model(_alone(inputs), heads(features), name="rest")


def _alone(tensors: list) -> Any:
    """A list of one as the one: Keras tells them apart."""
    return tensors[0] if len(tensors) == 1 else tensors


def _frozen_tensors(trunk: keras.Model) -> dict[int, keras.KerasTensor]:
    """The tensors of a trunk that no weight which learns has a part in, by their identity."""
    frozen = {id(tensor): tensor for tensor in trunk.inputs}
    for layer in trunk.layers:  # in the order of computation
        if isinstance(layer, keras.layers.InputLayer):
            continue
        if not layer.trainable_weights and _ids(layer.input) <= frozen.keys():
            frozen.update({id(tensor): tensor for tensor in keras.tree.flatten(layer.output)})
    return frozen


def _ids(tensors: Any) -> set[int]:
    return {id(tensor) for tensor in keras.tree.flatten(tensors)}


class Replay(keras.utils.PyDataset):
    """Recorded batches of a whole run for `fit`: in epoch e those of record e mod K, from e = K on in another order.

    Which batch comes at a step is a function of the step alone: Keras fetches batches ahead, across epochs too.

    Args:
        features: for each tensor at the cut an array [records, images, ...].
        asked: the targets of each head, and the weights of the images if they have any: a tuple of one or two, with
            float32 [records, images, 1] in it.
        batch_size: images a batch.
        epochs: of the run.
    """

    def __init__(self, features: list[np.ndarray], asked: tuple[Any, ...], *, batch_size: int, epochs: int = 1) -> None:
        super().__init__()
        self._features, self._asked, self._batch_size, self._epochs = features, asked, batch_size, epochs
        self._records, self._count = features[0].shape[:2]
        self.steps_per_epoch = -(-self._count // batch_size)

    def __len__(self) -> int:
        return self._epochs * self.steps_per_epoch

    def __getitem__(self, step: int) -> tuple[Any, ...]:
        epoch, step = divmod(step, self.steps_per_epoch)
        rows = self._order(epoch)[step * self._batch_size : (step + 1) * self._batch_size]
        record = epoch % self._records
        features = [np.asarray(each[record, rows]) for each in self._features]
        return _alone(features), *keras.tree.map_structure(lambda each: each[record, rows], self._asked)

    def _order(self, epoch: int) -> np.ndarray:
        again = epoch >= self._records
        return np.random.default_rng(epoch).permutation(self._count) if again else np.arange(self._count)


@contextlib.contextmanager
def folder(workdir: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder of the run that is there for the length of its training."""
    path = workdir / "trunk_cache"
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def record(
    frozen: keras.Model,
    batches: Any,
    folder: str | os.PathLike,
    *,
    steps: int,
    records: int = 1,
    epochs: int = 1,
    augmentation: keras.layers.Layer | None = None,
    verbose: int = 0,
) -> Replay:
    """Computes the features of `records` times `steps` batches and writes them to a folder.

    Args:
        frozen: from `split_model`.
        batches: (images, targets) or (images, targets, weights), without end or gone through as often as it takes.
        folder: for one file a tensor; made if it is not there, and what it holds is written over.
        steps: batches an epoch.
        records: epochs to record, K.
        epochs: epochs to replay.
        augmentation: layer put before the trunk, as in training.
        verbose: 1 shows a progress bar.

    Returns:
        What replays them.

    Raises:
        OSError: if the disk has too little room; nothing is written then.
    """
    folder = pathlib.Path(folder)
    stream = _without_end(batches)
    features: list[np.ndarray] = []
    columns: list[np.ndarray] = []
    bar = keras.utils.Progbar(records * steps, verbose=verbose, unit_name="batch")
    written = 0
    for step in range(records * steps):
        images, *asked = next(stream)
        given = images if augmentation is None else augmentation(images, training=True)
        found = keras.tree.flatten(frozen.predict_on_batch(given))
        count = len(found[0])
        if step == 0:
            batch_size, room = count, records * steps * count
            features = _make_room(folder, found, room)
            columns = [np.empty((room, 1), "float32") for _ in keras.tree.flatten(asked)]
        for array, values in zip([*features, *columns], [*found, *keras.tree.flatten(asked)], strict=True):
            array[written : written + count] = np.asarray(values)
        written += count
        bar.update(step + 1)
    per_record = written // records  # the last batch of one pass over a validation split may be short
    by_record = [each[:written].reshape(records, per_record, *each.shape[1:]) for each in [*features, *columns]]
    return Replay(
        by_record[: len(features)],
        keras.tree.pack_sequence_as(tuple(asked), by_record[len(features) :]),
        batch_size=batch_size,
        epochs=epochs,
    )


def _without_end(batches: Any) -> Iterator[tuple[Any, ...]]:
    while True:
        if isinstance(batches, keras.utils.PyDataset):
            yield from (batches[index] for index in range(len(batches)))
        else:
            yield from batches


def _make_room(folder: pathlib.Path, found: list[np.ndarray], count: int) -> list[np.ndarray]:
    """Files for the features of `count` images, mapped into memory."""
    folder.mkdir(parents=True, exist_ok=True)
    needed = sum(count * values[0].nbytes for values in found)
    free = shutil.disk_usage(folder).free * (1 - _SPARE)
    if needed > free:
        raise OSError(
            f"The cache of the trunk needs {needed / 1e9:.1f} GB in {folder}, where {free / 1e9:.1f} GB are free. "
            "Record fewer epochs, take smaller images, or another workdir."
        )
    return [
        np.memmap(folder / f"features-{index}", values.dtype, "w+", shape=(count, *values.shape[1:]))
        for index, values in enumerate(found)
    ]
