"""Renews the batch-normalisation statistics of a finished run."""

import contextlib
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import keras

from agegender.files import atomic_write
from agegender.models.batch_norm import renew_statistics
from agegender.models.saving import load_model
from agegender.schema import BEST_MODEL
from agegender.training.callbacks import LAST_MODEL
from agegender.training.processes import process_count

_IMAGES: Final = 8192  # more images do not change the statistics


def renew_saved_models(workdir: pathlib.Path, model: keras.Model, read_images: Callable[[], Iterable[Any]]) -> None:
    """Renews the statistics of the batch normalisation in `best.keras`, `last.keras` and `model`.

    The running averages of the training are of augmented images and of changing weights; ages come out up to three
    years wrong with them. Doing it twice changes nothing.

    Args:
        workdir: folder of the run.
        model: the trained model, with the weights of the last epoch; in one of several processes it stays as it is.
        read_images: returns batches of training images without augmentation, from the first on.
    """
    with _local_variables():
        for path in (workdir / BEST_MODEL, workdir / LAST_MODEL):
            saved = load_model(path)
            renew_statistics(saved, take_images(read_images(), _IMAGES))
            with atomic_write(path) as temporary:
                saved.save(temporary)
    if process_count() == 1:
        model.set_weights(saved.get_weights())


def has_trainable_batch_norm(model: keras.Model) -> bool:
    """Whether the trunk has batch normalisation that was trained; a frozen one keeps its published statistics."""
    trunk = next(layer for layer in model.layers if isinstance(layer, keras.Model))
    return any(isinstance(layer, keras.layers.BatchNormalization) and layer.trainable for layer in trunk.layers)


def take_images(batches: Iterable[Any], count: int) -> Iterator[Any]:
    """Takes batches until they have `count` images."""
    for images in batches:
        if count <= 0:
            return
        yield keras.ops.convert_to_numpy(images)
        count -= len(images)


@contextlib.contextmanager
def _local_variables() -> Iterator[None]:
    """Creates variables in this process alone."""
    distribution = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(distribution)
