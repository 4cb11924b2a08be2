"""A small run on one device or several, as a program of its own: `python together.py '{"data": ..., ...}'`.

Prints what each epoch logged, and the loss of each step, as JSON.
"""

import contextlib
import json
import os
import sys
from typing import Any

import keras
from conftest import SIZE, make_tiny_trunk

import agegender as ag
from agegender.models.batch_norm import add_batch_norm
from agegender.training.checkpoints import CheckpointPolicy
from agegender.training.processes import current_shard, is_chief, join_processes
from agegender.training.signals import explain_errors


class Tell(keras.callbacks.Callback):
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


def scope(told: dict[str, Any]) -> contextlib.AbstractContextManager[Any]:
    if keras.backend.backend() == "jax":
        if "join" in told:
            join_processes(*told["join"], timeout=60)
        return contextlib.nullcontext()
    import tensorflow as tf

    devices = [tf.config.LogicalDeviceConfiguration()] * told.get("devices", 1)
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], devices)
    return tf.distribute.MirroredStrategy().scope() if len(devices) > 1 else contextlib.nullcontext()


def run(told: dict[str, Any]) -> Tell:
    with scope(told):
        keras.utils.set_random_seed(1)
        tiny = make_tiny_trunk()
        model = ag.build_model(add_batch_norm(keras.Model(tiny.inputs[0], tiny.outputs[0], name="tiny")))
        options = {"batch_size": told.get("batch_size", 16), "image_size": SIZE, "data_dir": told["data"]}
        options["shard"] = current_shard()
        tell = Tell(told.get("ends", {}))
        ag.train(
            model,
            ag.load_utkface("train", training=True, seed=1, **options),
            ag.load_utkface("validation", **options),
            workdir=told["workdir"],
            epochs=2,
            steps_per_epoch=6,
            augmentation=ag.Augmentation(seed=1),
            optimizer=ag.make_optimizer(steps=12, clipnorm=0.5, learning_rate=told.get("learning_rate", 1e-3)),
            checkpoints=CheckpointPolicy(steps=2),
            callbacks=[tell],
            verbose=0,
        )
    return tell


if __name__ == "__main__":
    try:
        with explain_errors(lambda: "Here."):
            told = run(json.loads(sys.argv[1]))
    except (OSError, ValueError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    if is_chief():
        print(json.dumps({"losses": told.losses, "epochs": told.epochs}), flush=True)
