"""Reads the numbers that a face recogniser gives for each image, a target in training: `read_embeddings`."""

import os
import zipfile
from collections.abc import Callable

import numpy as np
import tensorflow as tf


def read_embeddings(path: str | os.PathLike) -> Callable[[tf.Tensor], tf.Tensor]:
    """Reads a file of `experiments.embeddings`.

    Args:
        path: a .npz file with `file_name` [count], the file names of UTKFace, and `embedding` [count, width].

    Returns:
        A function from file names, string [batch], to their embeddings minus the mean of the file, float32
        [batch, width]; NaN for names that are not in the file. The mean would be most of the loss of an untrained
        head, and ruin a trunk that knows faces already.

    Raises:
        ValueError: if it is no such file.
        FileNotFoundError: if there is no file.
    """
    try:
        with np.load(path) as file:
            names, values = file["file_name"], np.asarray(file["embedding"], "float32")
    except FileNotFoundError:
        raise FileNotFoundError(
            f"No embeddings in {path}. Compute them once: `python -m experiments.embeddings --out={path}`, or train "
            "without: `--config.data.embeddings='' --config.train.loss_weights=None`"
        ) from None
    except (KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"`embeddings` must be a file of `experiments.embeddings`. Received: {path} ({error})"
        ) from None
    if names.ndim != 1 or values.ndim != 2 or len(names) != len(values) or not np.isfinite(values).all():
        raise ValueError(
            "`embeddings` must contain a row of finite numbers per file name. "
            f"Received: {path} with shapes {names.shape} and {values.shape}"
        )
    rows = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(names.astype("bytes"), np.arange(len(names))), default_value=len(names)
    )
    table = tf.constant(np.vstack([values - values.mean(0), np.full_like(values[:1], np.nan)]))
    return lambda file_names: tf.gather(table, rows.lookup(file_names))
