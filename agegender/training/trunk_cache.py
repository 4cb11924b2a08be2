"""Feature cache for a frozen trunk: compute the frozen layers once, then train the rest on their outputs.

If only the last layers are trainable, each epoch sends the same images through the same frozen layers. With a cache of
K epochs, the first K epochs of batches, augmented as training would have augmented them, are sent through the frozen
layers once; the features are written to disk. Epoch e then replays cached epoch e mod K. The first K epochs are those
of a run without a cache; later ones see K views of each image instead of new ones.

Before its last block, VGG16 has 147 KB of features per image of 200 px in bfloat16 (12 x 12 x 512), 16 KB at 64 px.
"""

import itertools
import os
import pathlib
import shutil
from collections.abc import Iterable, Sequence
from typing import Any, Final

import keras
import numpy as np

_SPARE: Final = 0.05  # fraction of the free disk space that is not used


def split_model(model: keras.Model) -> tuple[keras.Model, keras.Model]:
    """Splits a model after its frozen layers.

    Args:
        model: from `build_model`, on a trunk whose first layers are frozen.

    Returns:
        The frozen part, from images to features, and the rest, from features to the outputs of `model`. Both consist
        of the layers of `model` itself. The features are the outputs of the last layers that depend on no trainable
        weight, poolings included: one tensor, or several if a shortcut crosses the split.

    Raises:
        ValueError: if no layer of the trunk is frozen.

    Example:

    >>> from agegender import build_model, vggface_trunk
    >>> trunk = vggface_trunk("vgg16", image_size=64, weights=None, trainable="last_block", seed=1)
    >>> frozen, rest = split_model(build_model(trunk))
    >>> [tensor.shape for tensor in frozen.outputs], sorted(rest.output)
    ([(None, 4, 4, 512)], ['age', 'gender'])
    """
    trunk = next(layer for layer in model.layers if isinstance(layer, keras.Model))
    frozen = _find_frozen_tensors(trunk)
    frozen_layers = [layer for layer in trunk.layers if _tensor_ids(layer.output) <= frozen.keys()]
    if not any(layer.weights for layer in frozen_layers):
        raise ValueError(
            "`cache_trunk` needs frozen layers at the start of the trunk, such as `vggface_trunk(..., "
            f"trainable='last_block')` has. Received: a trunk with {len(trunk.trainable_weights)} trainable weights "
            "and no frozen layer at its start"
        )
    other_layers = [layer for layer in trunk.layers if layer not in frozen_layers]
    used = keras.tree.flatten([layer.input for layer in other_layers]) if other_layers else trunk.outputs
    features = list({id(tensor): tensor for tensor in used if id(tensor) in frozen}.values())
    inputs = [keras.Input(tensor.shape[1:], dtype=tensor.dtype) for tensor in features]
    outputs = inputs[0]
    if other_layers:
        outputs = keras.Model(_unwrap_single(features), trunk.output)(_unwrap_single(inputs))
    heads = keras.Model(model.layers[model.layers.index(trunk) + 1].input, model.output)
    frozen_part = keras.Model(trunk.inputs[0], _unwrap_single(features), name="frozen")
    return frozen_part, keras.Model(_unwrap_single(inputs), heads(outputs), name="rest")


def _unwrap_single(tensors: Sequence) -> Any:
    """Unwraps a sequence of one tensor: Keras distinguishes the two."""
    return tensors[0] if len(tensors) == 1 else tensors


def _find_frozen_tensors(trunk: keras.Model) -> dict[int, keras.KerasTensor]:
    """Finds the tensors of a trunk that depend on no trainable weight, by their id."""
    frozen = {id(tensor): tensor for tensor in trunk.inputs}
    for layer in trunk.layers:  # in the order of computation
        if isinstance(layer, keras.layers.InputLayer):
            continue
        if not layer.trainable_weights and _tensor_ids(layer.input) <= frozen.keys():
            frozen.update({id(tensor): tensor for tensor in keras.tree.flatten(layer.output)})
    return frozen


def _tensor_ids(tensors: Any) -> set[int]:
    return {id(tensor) for tensor in keras.tree.flatten(tensors)}


class CachedFeatures(keras.utils.PyDataset):
    """Batches of cached features for `fit`: epoch e replays cached epoch e mod K, from e = K on in another order.

    A batch is a function of its step alone, because Keras prefetches batches across epochs.

    Args:
        features: one array [cached epochs, images, ...] per tensor at the split.
        labels: targets, and sample weights if there are any, as a tuple; arrays are float32 [cached epochs, images, 1].
        batch_size: images per batch.
        epochs: number of epochs of the run.
    """

    def __init__(
        self, features: list[np.ndarray], labels: tuple[Any, ...], *, batch_size: int, epochs: int = 1
    ) -> None:
        super().__init__()
        self._features, self._labels, self._batch_size, self._epochs = features, labels, batch_size, epochs
        self._cached_epochs, self._count = features[0].shape[:2]
        self.steps_per_epoch = -(-self._count // batch_size)

    def __len__(self) -> int:
        return self._epochs * self.steps_per_epoch

    def __getitem__(self, step: int) -> tuple[Any, ...]:
        epoch, step = divmod(step, self.steps_per_epoch)
        rows = self._order(epoch)[step * self._batch_size : (step + 1) * self._batch_size]
        cached = epoch % self._cached_epochs
        features = tuple(np.asarray(each[cached, rows]) for each in self._features)  # `fit` takes no list
        return _unwrap_single(features), *keras.tree.map_structure(lambda each: each[cached, rows], self._labels)

    def _order(self, epoch: int) -> np.ndarray:
        if epoch < self._cached_epochs:
            return np.arange(self._count)
        return np.random.default_rng(epoch).permutation(self._count)


def cache_features(
    frozen: keras.Model,
    batches: Iterable[tuple[Any, ...]],
    folder: str | os.PathLike,
    *,
    steps_per_epoch: int,
    cached_epochs: int = 1,
    epochs: int = 1,
    augmentation: keras.layers.Layer | None = None,
    verbose: int = 0,
) -> CachedFeatures:
    """Computes the features of K epochs and writes them to a folder.

    Args:
        frozen: from `split_model`.
        batches: `cached_epochs` times `steps_per_epoch` of (images, targets) or (images, targets, sample_weight).
        folder: one file per tensor is written to it; created if it does not exist.
        steps_per_epoch: batches per epoch.
        cached_epochs: number of epochs to compute, K.
        epochs: number of epochs to replay.
        augmentation: layer applied before the trunk, as in training.
        verbose: 1 shows a progress bar.

    Returns:
        The batches of features.

    Raises:
        OSError: if the disk has too little free space; nothing is written then.
    """
    folder = pathlib.Path(folder)
    arrays: list[np.ndarray] = []
    steps = cached_epochs * steps_per_epoch
    progress_bar = keras.utils.Progbar(steps, verbose=verbose, unit_name="batch")
    written = 0
    for step, (images, *labels) in enumerate(itertools.islice(batches, steps)):
        inputs = images if augmentation is None else augmentation(images, training=True)
        features = keras.tree.flatten(frozen.predict_on_batch(inputs))
        count = len(features[0])
        if step == 0:  # the first batch shows shapes and dtypes; the last of a validation split may be shorter
            batch_size, rows = count, steps * count
            arrays = _create_files(folder, features, rows)
            arrays += [np.empty((rows, 1), "float32") for _ in keras.tree.flatten(labels)]
        for array, values in zip(arrays, [*features, *keras.tree.flatten(labels)], strict=True):
            array[written : written + count] = np.asarray(values)
        written += count
        progress_bar.update(step + 1)
    per_epoch = written // cached_epochs
    by_epoch = [array[:written].reshape(cached_epochs, per_epoch, *array.shape[1:]) for array in arrays]
    return CachedFeatures(
        by_epoch[: len(features)],
        keras.tree.pack_sequence_as(tuple(labels), by_epoch[len(features) :]),
        batch_size=batch_size,
        epochs=epochs,
    )


def _create_files(folder: pathlib.Path, features: list[np.ndarray], count: int) -> list[np.ndarray]:
    """Creates memory-mapped files for the features of `count` images."""
    folder.mkdir(parents=True, exist_ok=True)
    needed = sum(count * values[0].nbytes for values in features)
    free = shutil.disk_usage(folder).free * (1 - _SPARE)
    if needed > free:
        raise OSError(
            f"The feature cache needs {needed / 1e9:.1f} GB in {folder}, but {free / 1e9:.1f} GB are free. Cache "
            "fewer epochs, use smaller images, or choose another workdir."
        )
    return [
        np.memmap(folder / f"features-{index}", values.dtype, "w+", shape=(count, *values.shape[1:]))
        for index, values in enumerate(features)
    ]
