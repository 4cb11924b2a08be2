"""What watches a run: saves its models, draws its curves, traces steps, stops at a loss that is not finite."""

import csv
import importlib.util
import math
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import keras

from agegender.schema import BEST_MODEL

LAST_MODEL: Final = "last.keras"
TENSORBOARD: Final = "tensorboard"
_CURVES: Final = (("loss", "joint loss"), ("age_mae", "age MAE, years"), ("gender_accuracy", "gender accuracy"))


def make_callbacks(
    model: keras.Model,
    workdir: pathlib.Path,
    *,
    monitor: str,
    full_size: int = 0,
    averaged: bool = False,
    profile: tuple[int, int] | None = None,
) -> list[keras.callbacks.Callback]:
    """What watches a run and writes its files.

    Args:
        model: to be saved.
        workdir: where to.
        monitor: what the best epoch is lowest in, such as "val_loss".
        full_size: the first epoch that may be the best one.
        averaged: whether the optimizer keeps an average of the weights, to be measured and saved in their place.
        profile: first and last step to trace.
    """
    listed: list[keras.callbacks.Callback] = [
        _StopAtNonFiniteLoss(),
        *([keras.callbacks.SwapEMAWeights(swap_on_epoch=True)] if averaged else []),
        _Checkpoint(model, workdir / LAST_MODEL),
        _Checkpoint(model, workdir / BEST_MODEL, first=full_size, monitor=monitor, mode="min", save_best_only=True),
        _WriteCurves(workdir),
    ]
    if importlib.util.find_spec("tensorflow"):  # Keras writes TensorBoard's files with it, on every backend
        listed.append(keras.callbacks.TensorBoard(str(workdir / TENSORBOARD), write_graph=False))
    return [*listed, _Trace(workdir / TENSORBOARD, *profile)] if profile else listed


class _Checkpoint(keras.callbacks.ModelCheckpoint):
    """Saves the model without the augmentation and the optimizer around it, from the epoch `first` on."""

    def __init__(self, inner: keras.Model, path: pathlib.Path, *, first: int = 0, **options: Any) -> None:
        super().__init__(str(path), **options)
        self._inner, self._first = inner, first

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if epoch >= self._first:
            super().on_epoch_end(epoch, logs)

    def set_model(self, model: keras.Model) -> None:
        super().set_model(self._inner)


class _StopAtNonFiniteLoss(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            step = self._epoch * self.params["steps"] + batch + 1
            raise FloatingPointError(
                f"The loss became {loss} at step {step} (epoch {self._epoch + 1}, batch {batch + 1}). "
                "Training has stopped; the models in the workdir are of the epochs before. "
                "A lower learning rate or a longer warm-up usually helps."
            )


class _Trace(keras.callbacks.Callback):
    """Traces some steps of the first epoch; Keras's own callback refuses on JAX before Python 3.12."""

    def __init__(self, folder: pathlib.Path, first: int, last: int) -> None:
        super().__init__()
        self._folder, self._first, self._last = folder, first, last

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._in_first_epoch = epoch == 0

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        if self._in_first_epoch and batch + 1 == self._first:
            _profiler()[0](str(self._folder))

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        if self._in_first_epoch and batch + 1 == self._last:  # the loss has been looked at: the step is done
            _profiler()[1]()


def _profiler() -> tuple[Callable[[str], None], Callable[[], None]]:
    """How the backend starts and stops a trace."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.profiler.start_trace, jax.profiler.stop_trace
    import tensorflow as tf  # only in this branch: the other backends must not need TensorFlow

    return tf.profiler.experimental.start, tf.profiler.experimental.stop


class _WriteCurves(keras.callbacks.Callback):
    """metrics.csv and curves.png, whole after each epoch: a long run can be looked at while it works."""

    def __init__(self, workdir: pathlib.Path) -> None:
        super().__init__()
        self._workdir = workdir
        self._rows: list[dict[str, float]] = []

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self._rows.append({"epoch": epoch, **(logs or {})})
        with open(self._workdir / "metrics.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, self._rows[0])
            writer.writeheader()
            writer.writerows(self._rows)
        draw_curves(self._rows, self._workdir / "curves.png")


def draw_curves(rows: Sequence[Mapping[str, float]], picture: str | os.PathLike) -> None:
    """Draws loss, age MAE and gender accuracy over the epochs, training and validation.

    Args:
        rows: one mapping an epoch, with "epoch" (from 0) and what Keras logs.
        picture: the PNG file to write.
    """
    from matplotlib.figure import Figure  # pyplot would keep every figure and look for a screen

    curves = [curve for curve in _CURVES if curve[0] in rows[0]]
    figure = Figure(figsize=(4 * len(curves), 3.2), layout="constrained")
    for axes, (name, title) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves, strict=True):
        for key, label in ((name, "training"), (f"val_{name}", "validation")):
            if key in rows[0]:
                axes.plot([row["epoch"] + 1 for row in rows], [row[key] for row in rows], "o-", label=label)
        axes.set(title=title, xlabel="epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(picture, dpi=120)
