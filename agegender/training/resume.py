"""Checkpoint and resume: the state of a run between two steps, and the callback that saves it.

A resumed run ends with exactly the weights of an uninterrupted one if a step depends on nothing but its state and its
batch. This is so on a CPU, with batches that are a function of (seed, step).
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

from agegender.training.checkpoints import Checkpoint, CheckpointPolicy, write_checkpoint
from agegender.training.processes import all_reduce_max, is_chief
from agegender.training.signals import Stopped, StopSignals


@dataclasses.dataclass
class Progress:
    """Position of a run: `step` of the `steps_per_epoch` steps of epoch `epoch` (from 0) are done."""

    epoch: int
    step: int
    steps_per_epoch: int

    @property
    def total_steps(self) -> int:
        """Steps done since the start of the run."""
        return self.epoch * self.steps_per_epoch + self.step

    def __str__(self) -> str:
        """
        >>> str(Progress(2, 5, 10)), str(Progress(2, 0, 10))
        ('step 25 (epoch 3, batch 5)', 'step 20 (the end of epoch 2)')
        """
        place = f"epoch {self.epoch + 1}, batch {self.step}" if self.step else f"the end of epoch {self.epoch}"
        return f"step {self.total_steps} ({place})"


class StatefulCallback(keras.callbacks.Callback):
    """A callback whose state is part of the checkpoints."""

    def get_state(self) -> Any:
        """Returns the state in types that JSON has."""
        raise NotImplementedError

    def load_state(self, state: Any) -> None:
        """Restores what `get_state` returned."""
        raise NotImplementedError


class TrainingState:
    """The variables of a run: weights, statistics, random states, optimizer and, within an epoch, metrics.

    Args:
        model: the model that is trained.
        learners: the compiled models that `fit` is called on, which share one optimizer.
    """

    def __init__(self, model: keras.Model, learners: Sequence[keras.Model]) -> None:
        for learner in learners:
            _build_optimizer_and_metrics(learner)
        weights = [*model.variables, *(variable for learner in learners for variable in _list_weights(learner))]
        variables = [*weights, *learners[0].optimizer.variables]
        self._variables = list({id(variable): variable for variable in variables}.values())

    def list_readers(self, learner: keras.Model | None = None) -> list[Callable[[], np.ndarray]]:
        """A function for each variable that returns its value; the metrics of `learner` come last."""
        variables = [*self._variables, *(learner.metrics_variables if learner else ())]
        return [functools.partial(_read_variable, variable) for variable in variables]

    def restore(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Assigns the variables.

        Returns:
            The remaining arrays: the values of the metrics.

        Raises:
            ValueError: if the arrays are those of another model; no variable has changed then.
        """
        shapes = [tuple(variable.shape) for variable in self._variables]
        if [array.shape for array in arrays[: len(shapes)]] != shapes:
            raise ValueError(
                "The checkpoint does not match the model and the optimizer. Pass those that the run was started with, "
                f"or choose another workdir. Received: a checkpoint with {len(arrays)} arrays, for {len(shapes)} "
                "variables"
            )
        for variable, array in zip(self._variables, arrays, strict=False):
            _assign_variable(variable, array)
        return list(arrays[len(shapes) :])

    @property
    def names(self) -> list[str]:
        """The paths of the variables."""
        return [variable.path for variable in self._variables]


def _list_weights(learner: keras.Model) -> list[keras.Variable]:
    return learner.trainable_variables + learner.non_trainable_variables


def _build_optimizer_and_metrics(learner: keras.Model) -> None:
    """Creates the variables that Keras otherwise creates in the first step.

    No batch of the data is read for it: the order of a shuffled dataset depends on how often it was iterated.
    """
    learner.optimizer.build(learner.trainable_variables)
    outputs = {head: np.zeros((1, output.shape[-1]), "float32") for head, output in learner.output.items()}
    targets = {head: np.zeros((1, 1), "float32") for head in outputs}
    with keras.StatelessScope():  # nothing is counted; new variables get their initial values at the end of the scope
        outputs, targets = keras.tree.map_structure(keras.ops.convert_to_tensor, (outputs, targets))
        learner.compute_loss(None, targets, outputs)
        learner.compute_metrics(None, targets, outputs)


def _read_variable(variable: keras.Variable) -> np.ndarray:
    value = keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(variable))
    return value.view(f"u{value.dtype.itemsize}") if value.dtype.kind == "V" else value  # .npy has no bfloat16


def _assign_variable(variable: keras.Variable, array: np.ndarray) -> None:
    dtype = keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(variable)).dtype
    variable.assign(array.view(dtype) if dtype.kind == "V" else array)


class CheckpointCallback(keras.callbacks.Callback):
    """Writes checkpoints during `fit`, and stops training after the current step if a signal was received.

    Args:
        state: variables of the run.
        folder: folder for the checkpoints.
        progress: position of the run, which this callback updates.
        policy: when to write.
        stateful_callbacks: callbacks whose state belongs to the run.
        settings: what a resumed run is compared with.
        signals: the signals that stop training.
    """

    def __init__(
        self,
        state: TrainingState,
        folder: pathlib.Path,
        *,
        progress: Progress,
        policy: CheckpointPolicy,
        stateful_callbacks: Sequence[StatefulCallback],
        settings: Mapping[str, Any],
        signals: StopSignals,
    ) -> None:
        super().__init__()
        self._state, self._folder, self._progress, self._policy = state, folder, progress, policy
        self._stateful_callbacks, self._settings, self._signals = stateful_callbacks, settings, signals
        self._metrics: list[np.ndarray] = []
        self._mark_saved()

    def load(self, checkpoint: Checkpoint) -> None:
        """Restores the run from a checkpoint; metrics are restored when the epoch begins and Keras has reset them."""
        self._metrics = self._state.restore(checkpoint.arrays)
        for callback, state in zip(self._stateful_callbacks, checkpoint.facts["callbacks"], strict=True):
            callback.load_state(state)
        self._progress.epoch, self._progress.step = checkpoint.facts["epoch"], checkpoint.facts["step"]
        self._mark_saved()

    def save(self, learner: keras.Model | None = None) -> None:
        """Writes a checkpoint; within an epoch, `learner` is the model whose metrics to include."""
        if is_chief():
            facts = {
                "epoch": self._progress.epoch,
                "step": self._progress.step,
                "settings": self._settings,
                "callbacks": [callback.get_state() for callback in self._stateful_callbacks],
                "variables": self._state.names,
            }
            arrays = (_check_finite(read(), self._progress) for read in self._state.list_readers(learner))
            write_checkpoint(self._folder, self._progress.total_steps, arrays, facts, keep=self._policy.keep)
        self._mark_saved()

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._first_step = self._progress.step
        if self._metrics:
            for variable, array in zip(self.model.metrics_variables, self._metrics, strict=True):
                _assign_variable(variable, array)
            self._metrics = []

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self._progress.step = self._first_step + batch + 1
        # The last step is saved by `on_epoch_end`, with the validation: `fit` cannot resume in an epoch of no steps.
        if self._progress.step < self._progress.steps_per_epoch:
            name = self._received_signal()
            if self._is_due() or name:
                self.save(self.model)
            self._stop_if(name)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        # After an early stop, the run continues with the next stage, or ends.
        self._progress.epoch = self.params["epochs"] if self.model.stop_training else epoch + 1
        self._progress.step = 0
        self.save()
        # A resumed epoch has fewer steps than the next ones, which need another call of `fit`.
        self.model.stop_training = self.model.stop_training or self._first_step > 0
        self._stop_if(self._received_signal())

    def _received_signal(self) -> str | None:
        """The signal that any of the processes has received; all stop after the same step."""
        number = all_reduce_max(signal.Signals[self._signals.received] if self._signals.received else 0)
        return signal.Signals(number).name if number else None

    def _is_due(self) -> bool:
        steps = self._progress.total_steps - self.saved_step
        return time.monotonic() - self._saved_at >= self._policy.seconds or 0 < self._policy.steps <= steps

    def _mark_saved(self) -> None:
        self._saved_at, self.saved_step = time.monotonic(), self._progress.total_steps

    def _stop_if(self, name: str | None) -> None:
        if name:
            message = f"{name}: stopped after {self._progress}, checkpoint saved. Run the same command to resume."
            print(message, file=sys.stderr)
            raise Stopped(message)


def _check_finite(array: np.ndarray, progress: Progress) -> np.ndarray:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise FloatingPointError(
            f"A weight is not finite after {progress}. Training has stopped; earlier checkpoints are kept. Try a lower "
            "learning rate or a longer warm-up."
        )
    return array
