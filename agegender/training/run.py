"""From the first step to the last, whatever comes between: one run in one folder, begun or gone on with.

Keras's `fit` is the loop. It is called once for each stage, and once for the rest of an epoch that was interrupted.
"""

import contextlib
import json
import pathlib
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras

from agegender.files import sweep
from agegender.schema import BEST_MODEL
from agegender.training import devices, run_record
from agegender.training.callbacks import LAST_MODEL, make_callbacks
from agegender.training.checkpoints import CHECKPOINTS, Checkpoint, Saving, checkpoint_from_chief, newest_checkpoint
from agegender.training.processes import from_chief, is_chief
from agegender.training.resume import KeepsState, Position, RunState, SaveState
from agegender.training.run_record import differences
from agegender.training.signals import StopSignals, explained, hold
from agegender.training.stages import Stage
from agegender.training.stream import data_from


def refuse_finished(workdir: pathlib.Path) -> None:
    """Raises FileExistsError if a folder holds a finished run, recorded or not; OSError if that in it cannot go on."""
    if workdir.exists() and not workdir.is_dir():
        raise NotADirectoryError(f"`workdir` must be a folder, there already or not. Received: the file {workdir}")
    record = run_record.read_record(workdir)
    trained = any((workdir / name).exists() for name in (BEST_MODEL, LAST_MODEL))
    lost = trained and not any((workdir / CHECKPOINTS).glob("*.npz"))
    if run_record.FINISHED in record or (lost and not record):
        raise FileExistsError(
            f"{workdir} holds a trained model already: its run is finished. Choose another workdir, or move it away."
        )
    if lost:
        raise OSError(
            f"{workdir} holds a run that is not finished, without the checkpoints from which it would go on. Choose "
            "another workdir, or move it away."
        )


def run(
    model: keras.Model,
    learners: Sequence[keras.Model],
    stages: Sequence[Stage],
    data: contextlib.AbstractContextManager[tuple[Any, Any]],
    *,
    workdir: pathlib.Path,
    steps_per_epoch: int,
    settings: Mapping[str, Any],
    record: Mapping[str, Any] | None,
    monitor: str,
    averaged: bool,
    callbacks: Iterable[keras.callbacks.Callback],
    profile: tuple[int, int] | None,
    saving: Saving,
    verbose: int | str,
    began: float,
) -> keras.callbacks.History:
    """Fits the learners of a model, each through its stage, from the newest checkpoint of the folder if there is one.

    Args:
        model: what is saved.
        learners: what is fitted, one for each of the stages, compiled with one optimizer.
        stages: all epochs of the run.
        data: gives the training and the validation data, when the weights are as they will be for the next step.
        workdir: folder of the run.
        steps_per_epoch: batches an epoch.
        settings: what must be the same when the run goes on.
        record: what else to write to run.json.
        monitor: what the best epoch is lowest in.
        averaged: whether the optimizer keeps an average of the weights.
        callbacks: further ones.
        profile: first and last step of the first epoch to trace.
        saving: when checkpoints are written.
        verbose: as in Keras.
        began: `time.monotonic()` when the set-up of the run began.

    Returns:
        Keras's History of all epochs.

    Raises:
        As `training.train`.
    """
    folder, settings, signals = workdir / CHECKPOINTS, run_record.plain(settings), StopSignals()
    with contextlib.ExitStack() as held:

        def find() -> Checkpoint | None:
            held.enter_context(hold(folder))
            refuse_finished(workdir)
            return _find_own(workdir, settings)

        _refuse_another(settings)
        found = checkpoint_from_chief(find)
        going_on, writes = found is not None, is_chief()
        position = Position(0, 0, steps_per_epoch)
        ours = make_callbacks(
            model,
            workdir if writes else None,
            monitor=monitor,
            position=position,
            first_best=stages[-1].first,
            averaged=averaged,
            profile=None if going_on else profile,
        )
        saver = SaveState(
            RunState(model, learners),
            folder,
            position=position,
            saving=saving,
            keepers=[callback for callback in ours if isinstance(callback, KeepsState)],
            settings=settings,
            signals=signals,
        )
        options = {"callbacks": [*ours, *callbacks, saver], "verbose": verbose if writes else 0}
        with explained(lambda: f"The last checkpoint in {folder} is of step {saver.saved_step}."):
            if found:
                saver.go_on(found)
                print(f"Goes on after {position}, from {found.path}", file=sys.stderr)
                found = None  # its arrays take as much memory as the weights and the optimizer
            if writes:
                _write_record(workdir, model, record, position if going_on else None)
                for each in (folder, workdir):
                    sweep(each)
            if not going_on:
                saver.save()  # what is random in the beginning is the same when the run begins again
            with data as (train, validation):
                if writes:
                    run_record.note_seconds(workdir, "set_up", time.monotonic() - began)
                with signals:
                    _fit(stages, learners, train, position, saver, validation_data=validation, **options)
        if writes:
            run_record.write_record(workdir, {**run_record.read_record(workdir), run_record.FINISHED: run_record.now()})
            shutil.rmtree(folder)
    return next(callback for callback in ours if isinstance(callback, keras.callbacks.History))


def _refuse_another(settings: Mapping[str, Any]) -> None:
    """Raises if this process was told something else than process 0."""
    told = json.dumps(settings).encode()
    there = from_chief(lambda: told)
    if there != told and (listed := differences(json.loads(there), settings)):
        raise ValueError(f"All processes must be told the same. Process 0 has other settings: {'; '.join(listed)}")


def _find_own(workdir: pathlib.Path, settings: Mapping[str, Any]) -> Checkpoint | None:
    """The newest checkpoint, if it is of a run with these settings; one of no step is no reason to refuse others."""
    found = newest_checkpoint(workdir / CHECKPOINTS)
    if found is None:
        return None
    there = found.facts["settings"]
    # The config says it best; what follows from it would only repeat that.
    listed = differences(there["config"], settings["config"]) or differences(there, settings)
    if not listed:
        return found
    if found.facts["epoch"] == found.facts["step"] == 0:
        return None
    raise ValueError(
        f"{workdir} holds a run with other settings: {'; '.join(listed)}. Go on with those of the run, or choose "
        "another workdir."
    )


def _write_record(
    workdir: pathlib.Path, model: keras.Model, record: Mapping[str, Any] | None, going_on: Position | None
) -> None:
    """Before the first step; where the run goes on, only that is added."""
    before, versions = run_record.read_record(workdir) if going_on else {}, run_record.list_versions()
    if before and (listed := differences(before["versions"], versions)):
        print(
            f"Warning: the run began with other versions, {'; '.join(listed)}: its last bits may differ",
            file=sys.stderr,
        )
    facts = before or {
        "started": run_record.now(),
        "command": sys.argv,
        "code": run_record.git_state(),
        "backend": keras.backend.backend(),
        "devices": devices.list_devices(),
        "dtype_policy": keras.config.dtype_policy().name,
        "parameters": model.count_params(),
        "versions": versions,
        **(record or {}),
        "seconds": {},
    }
    if going_on:
        facts["resumed"] = [*facts.get("resumed", []), {"at": run_record.now(), "step": going_on.total}]
    run_record.write_record(workdir, facts)


def _fit(
    stages: Sequence[Stage],
    learners: Sequence[keras.Model],
    train: Any,
    position: Position,
    saver: SaveState,
    **options: Any,
) -> None:
    for stage, learner in zip(stages, learners, strict=True):
        while position.epoch < stage.end:
            begun, steps = position.step, position.steps_per_epoch
            learner.fit(
                data_from(train, position.total, steps),
                initial_epoch=position.epoch,
                epochs=stage.end,
                steps_per_epoch=steps - begun,
                shuffle=False,  # the dataset has shuffled already
                **options,
            )
            if begun and position.epoch < stage.end:
                saver.go_back()  # Keras has ended that epoch as if it were the last, where weights are averaged
