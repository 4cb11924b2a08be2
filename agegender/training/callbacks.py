"""What watches a run: saves its models, draws its curves, traces steps, stops at a loss that is not finite.

What these callbacks have to know when a run goes on, they hand to its checkpoints (`resume.KeepsState`).
"""

import csv
import importlib.util
import math
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import keras

from agegender.files import replacing
from agegender.schema import BEST_MODEL
from agegender.training.resume import KeepsState, Position
from agegender.training.run_record import note_seconds

LAST_MODEL: Final = "last.keras"
TENSORBOARD: Final = "tensorboard"
_CURVES: Final = (("loss", "joint loss"), ("age_mae", "age MAE, years"), ("gender_accuracy", "gender accuracy"))


def make_callbacks(
    model: keras.Model,
    workdir: pathlib.Path | None,
    *,
    monitor: str,
    position: Position,
    first_best: int = 0,
    averaged: bool = False,
    profile: tuple[int, int] | None = None,
) -> list[keras.callbacks.Callback]:
    """What watches a run and writes its files.

    Args:
        model: to be saved.
        workdir: where to; None in a process that writes nothing, whose callbacks know the same.
        monitor: what the best epoch is lowest in, such as "val_loss".
        position: where the run is.
        first_best: the first epoch that may be the best one.
        averaged: whether the optimizer keeps an average of the weights, to be measured and saved in their place.
        profile: first and last step to trace.
    """
    history = _KeepHistory()
    listed: list[keras.callbacks.Callback] = [
        history,
        _StopAtNonFiniteLoss(position),
        *([_SwapAverage(swap_on_epoch=True)] if averaged else []),
        _SaveModel(model, workdir and workdir / LAST_MODEL),
        _SaveModel(model, workdir and workdir / BEST_MODEL, first=first_best, monitor=monitor),
        *([_WriteCurves(history, workdir)] if workdir else []),
        _TimeEpochs(workdir),
    ]
    if workdir is None:
        return listed
    if importlib.util.find_spec("tensorflow"):  # Keras writes TensorBoard's files with it, on every backend
        listed.append(keras.callbacks.TensorBoard(str(workdir / TENSORBOARD), write_graph=False))
    return [*listed, _Trace(workdir / TENSORBOARD, *profile)] if profile else listed


class _SwapAverage(keras.callbacks.SwapEMAWeights, KeepsState):
    """Keras's callback, which knows after an interruption whose place the average is in."""

    def state(self) -> bool:
        return self._ema_weights_in_model

    def go_on(self, state: bool) -> None:
        self._ema_weights_in_model = state


class _SaveModel(KeepsState):
    """Saves the model without the augmentation and the optimizer around it, from the epoch `first` on.

    With `monitor`, only the epoch that is lowest in it. The file is whole at any time.
    """

    def __init__(
        self, inner: keras.Model, path: pathlib.Path | None, *, first: int = 0, monitor: str | None = None
    ) -> None:
        super().__init__()
        self._inner, self._path, self._first, self._monitor = inner, path, first, monitor
        self._best = math.inf

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if epoch < self._first:
            return
        if self._monitor is not None:
            value = (logs or {})[self._monitor]
            if not value < self._best:
                return
            self._best = value
        if self._path is not None:
            with replacing(self._path) as aside:
                self._inner.save(aside)

    def state(self) -> float:
        return self._best

    def go_on(self, state: float) -> None:
        self._best = state


class _StopAtNonFiniteLoss(keras.callbacks.Callback):
    def __init__(self, position: Position) -> None:
        super().__init__()
        self._position = position

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._epoch, self._begun = epoch, self._position.step

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            done = self._begun + batch + 1
            step = self._epoch * self._position.steps_per_epoch + done
            raise FloatingPointError(
                f"The loss became {loss} at step {step} (epoch {self._epoch + 1}, batch {done}). "
                "Training has stopped; the models in the workdir are of the epochs before. "
                "A lower learning rate or a longer warm-up usually helps, in another workdir."
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


class _KeepHistory(keras.callbacks.History, KeepsState):
    """Keras's callback, for all epochs of a run, however often Keras's `fit` is called for them."""

    def __init__(self) -> None:
        super().__init__()
        self.epoch: list[int] = []

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Keras's own forgets here."""

    @property
    def rows(self) -> list[dict[str, float]]:
        """A mapping an epoch, with "epoch" (from 0) and what Keras logs."""
        columns = {"epoch": self.epoch, **self.history}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def state(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "history": self.history}

    def go_on(self, state: dict[str, Any]) -> None:
        self.epoch, self.history = state["epoch"], state["history"]


class _WriteCurves(keras.callbacks.Callback):
    """metrics.csv and curves.png, whole after each epoch: a long run can be looked at while it works."""

    def __init__(self, history: _KeepHistory, workdir: pathlib.Path) -> None:
        super().__init__()
        self._history, self._workdir = history, workdir

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        rows = self._history.rows
        with replacing(self._workdir / "metrics.csv") as aside, open(aside, "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        with replacing(self._workdir / "curves.png") as aside:
            draw_curves(rows, aside)


class _TimeEpochs(KeepsState):
    """How long each epoch took, validation and saving included, into the record of the run.

    An epoch that was interrupted counts the time that its last checkpoint knew of, and what came after.
    """

    def __init__(self, workdir: pathlib.Path | None) -> None:
        super().__init__()
        self._workdir = workdir
        self._seconds: list[float] = []
        self._before = 0.0
        self._since: float | None = None

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._since = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self._seconds.append(self._running())
        self._before, self._since = 0.0, None
        if self._workdir is not None:
            note_seconds(self._workdir, "epochs", self._seconds)

    def _running(self) -> float:
        return self._before + (0.0 if self._since is None else time.monotonic() - self._since)

    def state(self) -> dict[str, Any]:
        return {"epochs": self._seconds, "running": self._running()}

    def go_on(self, state: dict[str, Any]) -> None:
        self._seconds, self._before, self._since = state["epochs"], state["running"], None


def draw_curves(rows: Sequence[Mapping[str, float]], image: str | os.PathLike) -> None:
    """Draws loss, age MAE and gender accuracy over the epochs, training and validation.

    Args:
        rows: one mapping an epoch, with "epoch" (from 0) and what Keras logs.
        image: the PNG file to write.
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
    figure.savefig(image, dpi=120)
