"""Keras callbacks of a run: save models, write curves, stop at a loss that is not finite.

Callbacks with state that must survive a resume are `resume.StatefulCallback`s; checkpoints contain their state.
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

from agegender.files import atomic_write
from agegender.models.contract import ContractError
from agegender.schema import BEST_MODEL
from agegender.training.resume import Progress, StatefulCallback
from agegender.training.run_record import read_record, record_seconds

LAST_MODEL: Final = "last.keras"
TENSORBOARD: Final = "tensorboard"
_CURVES: Final = (("loss", "joint loss"), ("age_mae", "age MAE, years"), ("gender_accuracy", "gender accuracy"))


def make_callbacks(
    model: keras.Model,
    workdir: pathlib.Path | None,
    *,
    monitor: str,
    progress: Progress,
    first_best_epoch: int = 0,
    find_bad_batch: Callable[[int | None], None],
) -> list[keras.callbacks.Callback]:
    """Makes the callbacks that every run has.

    Args:
        model: the model to save.
        workdir: folder to write to; None in processes that write nothing.
        monitor: metric that the best epoch minimises, such as "val_loss".
        progress: position of the run.
        first_best_epoch: first epoch that may become the best one.
        find_bad_batch: called with a step (from 0), or None for the validation, if a loss is not finite; raises an
            error that explains it if the data are the cause.
    """
    history = _RunHistory()
    callbacks: list[keras.callbacks.Callback] = [
        history,
        _StopAtNonFiniteLoss(progress, monitor, find_bad_batch),
        _SaveModel(model, workdir and workdir / LAST_MODEL),
        _SaveModel(model, workdir and workdir / BEST_MODEL, first_epoch=first_best_epoch, monitor=monitor),
        *([_WriteCurves(history, workdir), _RecordEpochSeconds(workdir)] if workdir else []),
    ]
    if workdir and importlib.util.find_spec("tensorflow"):  # Keras writes TensorBoard files with it
        callbacks.append(keras.callbacks.TensorBoard(str(workdir / TENSORBOARD), write_graph=False))
    return callbacks


class _SaveModel(StatefulCallback):
    """Saves the inference model, without augmentation and optimizer, at the end of an epoch.

    With `monitor`, saves only if the epoch is better than all before.
    """

    def __init__(
        self, model: keras.Model, path: pathlib.Path | None, *, first_epoch: int = 0, monitor: str | None = None
    ) -> None:
        super().__init__()
        self._inference_model, self._path, self._first_epoch, self._monitor = model, path, first_epoch, monitor
        self._best = math.inf

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if epoch < self._first_epoch:
            return
        if self._monitor is not None:
            value = (logs or {})[self._monitor]
            if not value < self._best:
                return
            self._best = value
        if self._path is not None:
            with atomic_write(self._path) as temporary:
                self._inference_model.save(temporary)

    def get_state(self) -> float:
        return self._best

    def load_state(self, state: float) -> None:
        self._best = state


class _StopAtNonFiniteLoss(keras.callbacks.Callback):
    def __init__(self, progress: Progress, monitor: str, find_bad_batch: Callable[[int | None], None]) -> None:
        super().__init__()
        self._progress, self._monitor, self._find_bad_batch = progress, monitor, find_bad_batch

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._first_step = self._progress.step

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            progress = self._progress
            position = Progress(progress.epoch, self._first_step + batch + 1, progress.steps_per_epoch)
            self._find_bad_batch(position.total_steps - 1)
            raise FloatingPointError(
                f"The loss is {loss} at {position}. Training has stopped; the workdir has the models of the epochs "
                "before. Try a lower learning rate or a longer warm-up, in another workdir."
            )

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        for key, name in (("loss", "data"), (self._monitor, "validation")):
            if key not in (logs or {}):
                raise ContractError(f"`{name}` must have a batch or more in each epoch. Received: none")
        loss = (logs or {}).get("val_loss", 0.0)
        if not math.isfinite(loss):
            self._find_bad_batch(None)
            raise FloatingPointError(
                f"The validation loss is {loss} after epoch {epoch + 1}. Training has stopped; the workdir has the "
                "models of the epochs before. Try a lower learning rate or a longer warm-up, in another workdir."
            )


class _RunHistory(keras.callbacks.History, StatefulCallback):
    """Keras's History, but for all epochs of a run, over several calls of `fit`."""

    def __init__(self) -> None:
        super().__init__()
        self.epoch: list[int] = []

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Keeps the epochs so far, which Keras would clear here."""

    @property
    def rows(self) -> list[dict[str, float]]:
        """One mapping per epoch, with "epoch" (from 0) and the logged metrics."""
        columns = {"epoch": self.epoch, **self.history}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def get_state(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "history": self.history}

    def load_state(self, state: dict[str, Any]) -> None:
        self.epoch, self.history = state["epoch"], state["history"]


class _WriteCurves(keras.callbacks.Callback):
    """Writes metrics.csv and curves.png after each epoch."""

    def __init__(self, history: _RunHistory, workdir: pathlib.Path) -> None:
        super().__init__()
        self._history, self._workdir = history, workdir

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        rows = self._history.rows
        with atomic_write(self._workdir / "metrics.csv") as temporary, open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        with atomic_write(self._workdir / "curves.png") as temporary:
            draw_curves(rows, temporary)


class _RecordEpochSeconds(keras.callbacks.Callback):
    """Writes the seconds of each epoch, from its start or its resume to its end, into run.json."""

    def __init__(self, workdir: pathlib.Path) -> None:
        super().__init__()
        self._workdir = workdir

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._start = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        before = (read_record(self._workdir).get("seconds") or {}).get("epochs", [])
        record_seconds(self._workdir, "epochs", [*before[:epoch], time.monotonic() - self._start])


def draw_curves(rows: Sequence[Mapping[str, float]], path: str | os.PathLike) -> None:
    """Draws loss, age MAE and gender accuracy over the epochs, for training and validation.

    Args:
        rows: one mapping per epoch, with "epoch" (from 0) and the logged metrics.
        path: the PNG file to write.
    """
    from matplotlib.figure import Figure  # pyplot keeps every figure in memory and needs a display

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
    figure.savefig(path, dpi=120)
