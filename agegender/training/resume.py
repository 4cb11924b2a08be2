"""Going on where a run stopped: its state between two steps, and when that is saved.

    RunState     every variable that a step changes or reads, in one fixed order
    SaveState    the callback that writes it, with what the other callbacks keep, into a checkpoint

A run that went on ends with the very weights of one that was never stopped, where a step itself is a function of its
state and its batch: on a CPU it is, and the batch is a function of (seed, step).
"""

import dataclasses
import functools
import pathlib
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from agegender.schema import HEADS
from agegender.training.checkpoints import Checkpoint, Saving, checkpoint_from_chief, read_checkpoint, write_checkpoint
from agegender.training.processes import is_chief, largest
from agegender.training.signals import Stopped, StopSignals


@dataclasses.dataclass
class Position:
    """Where a run is: `step` steps of epoch `epoch` are done, of `steps_per_epoch`."""

    epoch: int
    step: int
    steps_per_epoch: int

    @property
    def total(self) -> int:
        """Steps done since the beginning."""
        return self.epoch * self.steps_per_epoch + self.step

    def __str__(self) -> str:
        """
        >>> str(Position(2, 5, 10)), str(Position(2, 0, 10))
        ('step 25 (epoch 3, batch 5)', 'step 20 (the end of epoch 2)')
        """
        place = f"epoch {self.epoch + 1}, batch {self.step}" if self.step else f"the end of epoch {self.epoch}"
        return f"step {self.total} ({place})"


class KeepsState(keras.callbacks.Callback):
    """A callback with a state of its own, which a checkpoint keeps as JSON."""

    def state(self) -> Any:
        """What it has to know to go on."""
        raise NotImplementedError

    def go_on(self, state: Any) -> None:
        """Goes on from what `state` gave."""
        raise NotImplementedError


class RunState:
    """Weights, statistics, random states and optimizer of a run; and, in the middle of an epoch, its measures.

    Args:
        model: what is trained.
        learners: what is fitted, one for each stage, compiled with one optimizer.
    """

    def __init__(self, model: keras.Model, learners: Sequence[keras.Model]) -> None:
        for learner in learners:
            _build(learner)
        listed = [model.variables, *(each.trainable_variables + each.non_trainable_variables for each in learners)]
        found = [*(variable for each in listed for variable in each), *learners[0].optimizer.variables]
        self._variables = list({id(variable): variable for variable in found}.values())

    def arrays(self, learner: keras.Model | None = None) -> list[Callable[[], np.ndarray]]:
        """What gives the value of each variable; those of the measures of `learner` come last."""
        variables = [*self._variables, *(learner.metrics_variables if learner else ())]
        return [functools.partial(_value, variable) for variable in variables]

    def restore(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Gives all variables their values.

        Returns:
            What is left: the values of the measures.

        Raises:
            ValueError: if they are of another model; nothing has been changed then.
        """
        shapes = [tuple(variable.shape) for variable in self._variables]
        if [array.shape for array in arrays[: len(shapes)]] != shapes:
            raise ValueError(
                f"The checkpoint is of another model or optimizer: {len(arrays)} arrays there, {len(shapes)} variables "
                "here, and their shapes differ. Give the ones that the run began with, or choose another workdir."
            )
        for variable, array in zip(self._variables, arrays, strict=False):
            _assign(variable, array)
        return list(arrays[len(shapes) :])

    @property
    def names(self) -> list[str]:
        """The paths of the variables."""
        return [variable.path for variable in self._variables]


def _build(learner: keras.Model) -> None:
    """Makes the variables of optimizer and measures, which Keras else makes in the first step.

    Keras's trainers for JAX and torch do the same with the first batch of the data. Here no batch is drawn for it: the
    order of a shuffled dataset would depend on how often it was begun.
    """
    images = keras.tree.map_structure(lambda tensor: keras.KerasTensor(tensor.shape, tensor.dtype), learner.input)
    targets = {head: keras.KerasTensor((None, 1), "float32") for head in HEADS if head in learner.output}
    learner._symbolic_build(data_batch=(images, targets))


def _value(variable: keras.Variable) -> np.ndarray:
    value = keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(variable))
    return value.view(f"u{value.dtype.itemsize}") if value.dtype.kind == "V" else value  # numpy cannot name bfloat16


def _assign(variable: keras.Variable, array: np.ndarray) -> None:
    kind = keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(variable)).dtype
    variable.assign(array.view(kind) if kind.kind == "V" else array)


class SaveState(keras.callbacks.Callback):
    """Writes checkpoints while Keras's `fit` works, and ends training after the running step if a signal came.

    Args:
        state: of the run.
        folder: for the checkpoints.
        position: where the run is; kept up to date.
        saving: when to write.
        keepers: the callbacks whose state belongs to the run.
        settings: what the run was told, to be compared when it goes on.
        signals: those that end training.
    """

    def __init__(
        self,
        state: RunState,
        folder: pathlib.Path,
        *,
        position: Position,
        saving: Saving,
        keepers: Sequence[KeepsState],
        settings: Mapping[str, Any],
        signals: StopSignals,
    ) -> None:
        super().__init__()
        self._state, self._folder, self._position, self._saving = state, folder, position, saving
        self._keepers, self._settings, self._signals = keepers, settings, signals
        self._measures: list[np.ndarray] = []
        self._saved = time.monotonic()
        self.saved_step = position.total

    def go_on(self, checkpoint: Checkpoint) -> None:
        """Takes the state of a checkpoint; the measures of an epoch follow when Keras has set them to zero."""
        self._measures = self._state.restore(checkpoint.arrays)
        for callback, state in zip(self._keepers, checkpoint.facts["callbacks"], strict=True):
            callback.go_on(state)
        self._position.epoch, self._position.step = checkpoint.facts["epoch"], checkpoint.facts["step"]
        self._note_saved()

    def go_back(self) -> None:
        """Takes the state that was saved last."""
        if found := checkpoint_from_chief(lambda: read_checkpoint(self._path)):
            self.go_on(found)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._begun = self._position.step
        if self._measures:
            for variable, array in zip(self.model.metrics_variables, self._measures, strict=True):
                _assign(variable, array)
            self._measures = []

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self._position.step = self._begun + batch + 1
        # The last step of an epoch is followed by its validation, and then saved with that: to begin an epoch without
        # a step left in it is more than Keras's `fit` can do.
        if self._position.step < self._position.steps_per_epoch:
            came = self._came()
            if self._is_due() or came:
                self.save(self.model)
            self._leave_if(came)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        ended = self.params["epochs"] if self.model.stop_training else epoch + 1
        self._position.epoch, self._position.step = ended, 0
        self.save()
        # Only the rest of an epoch that was begun before: what follows it is another fit, with as many steps as usual.
        self.model.stop_training = self.model.stop_training or self._begun > 0
        self._leave_if(self._came())

    def _came(self) -> str | None:
        """The signal that came, to whichever process: all leave after the same step."""
        number = largest(signal.Signals[self._signals.came] if self._signals.came else 0)
        return signal.Signals(number).name if number else None

    def _is_due(self) -> bool:
        steps = self._position.total - self.saved_step
        return time.monotonic() - self._saved >= self._saving.seconds or 0 < self._saving.steps <= steps

    def save(self, learner: keras.Model | None = None) -> None:
        """Writes a checkpoint of this moment; in the middle of an epoch with the measures of the learner."""
        if is_chief():
            self._path = self._write(learner)
        self._note_saved()

    def _write(self, learner: keras.Model | None) -> pathlib.Path:
        facts = {
            "epoch": self._position.epoch,
            "step": self._position.step,
            "settings": self._settings,
            "callbacks": [callback.state() for callback in self._keepers],
            "variables": self._state.names,
        }
        values = (_finite(value(), self._position) for value in self._state.arrays(learner))
        return write_checkpoint(self._folder, self._position.total, values, facts, keep=self._saving.keep)

    def _note_saved(self) -> None:
        self._saved, self.saved_step = time.monotonic(), self._position.total

    def _leave_if(self, name: str | None) -> None:
        if name:
            words = f"{name}: stopped after {self._position} and saved. Run the same command again to go on."
            print(words, file=sys.stderr)
            raise Stopped(words)


def _finite(array: np.ndarray, position: Position) -> np.ndarray:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise FloatingPointError(
            f"A weight is not finite after {position}: training has stopped, and the checkpoints before are kept. A "
            "lower learning rate or a longer warm-up usually helps."
        )
    return array
