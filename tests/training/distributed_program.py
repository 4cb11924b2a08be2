"""A small run in one or several processes: `python distributed_program.py '{"workdir": ..., ...}'`.

Prints the logs of each epoch and the loss of each step as JSON. On JAX it does not import TensorFlow.
"""

import contextlib
import json
import os
import sys
import traceback
from typing import Any

if __name__ == "__main__" and os.environ["KERAS_BACKEND"] == "jax":
    sys.modules["tensorflow"] = None  # type: ignore[assignment]  # as if it were not installed: its import takes long

import keras
import numpy as np

import agegender as ag
from agegender.models.batch_norm import add_batch_norm
from agegender.training.checkpoints import CheckpointPolicy
from agegender.training.processes import current_shard, is_chief, join_processes

SIZE = 16
BATCH = 8  # of all processes


class Batches(keras.utils.PyDataset):
    """This process's rows of four random batches."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        index, count = current_shard()
        self._seed = seed
        self._rows = slice(index * BATCH // count, (index + 1) * BATCH // count)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        draw = np.random.default_rng([self._seed, index])
        images = draw.integers(0, 256, (BATCH, SIZE, SIZE, 3), "uint8")
        ages, genders = draw.uniform(1, 90, (BATCH, 1)), draw.integers(0, 2, (BATCH, 1))
        targets = {"age": ages.astype("float32"), "gender": genders.astype("float32")}
        return images[self._rows], {head: values[self._rows] for head, values in targets.items()}


class Record(keras.callbacks.Callback):
    """Records losses, and sends this process a signal after some steps."""

    def __init__(self, ends: dict[str, int]) -> None:
        super().__init__()
        self.losses: list[float] = []
        self.epochs: list[dict[str, float]] = []
        self._ends = ends

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.losses.append(float((logs or {})["loss"]))
        if len(self.losses) == self._ends.get("after"):
            os.kill(os.getpid(), self._ends["signal"])

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.epochs.append({name: float(value) for name, value in (logs or {}).items()})


def enter_scope(options: dict[str, Any]) -> contextlib.AbstractContextManager[Any]:
    if keras.backend.backend() == "jax":
        if "join" in options:
            join_processes(*options["join"], timeout=60)
        return contextlib.nullcontext()
    import tensorflow as tf

    devices = [tf.config.LogicalDeviceConfiguration()] * options["devices"]
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], devices)
    return tf.distribute.MirroredStrategy().scope()


def make_data(seed: int) -> Any:
    batches = Batches(seed)
    if keras.backend.backend() == "jax":
        return batches
    import tensorflow as tf

    every = [batches[index] for index in range(len(batches))]
    images, targets = keras.tree.map_structure(lambda *parts: np.concatenate(parts), *every)
    return tf.data.Dataset.from_tensor_slices((images, targets)).batch(BATCH, drop_remainder=True)


def run(options: dict[str, Any]) -> Record:
    with enter_scope(options):
        keras.utils.set_random_seed(1)
        image = keras.Input((SIZE, SIZE, 3))
        features = keras.layers.Conv2D(4, 3, strides=2, activation="relu")(image / 255)
        trunk = keras.Model(image, keras.layers.GlobalAveragePooling2D()(features))
        model = ag.build_model(add_batch_norm(trunk), units=(8,), age_dropout=(0.2,), gender_dropout=(0.2,))
        record = Record(options.get("ends", {}))
        ag.train(
            model,
            make_data(1),
            make_data(2),
            workdir=options["workdir"],
            epochs=2,
            augmentation=ag.Augmentation(seed=1),
            optimizer=ag.make_optimizer(steps=8, clipnorm=0.5, learning_rate=options.get("learning_rate", 1e-3)),
            checkpoints=CheckpointPolicy(steps=2),
            callbacks=[record],
            verbose=0,
        )
    return record


if __name__ == "__main__":
    try:
        record = run(json.loads(sys.argv[1]))
    except Exception:
        traceback.print_exc()
        os._exit(1)  # without waiting for the other process
    if is_chief():
        print(json.dumps({"losses": record.losses, "epochs": record.epochs}), flush=True)
