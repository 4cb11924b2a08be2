"""Runs `fit` for one workdir, fresh or resumed.

Keras's `fit` is the training loop. It is called once per stage, and once for the rest of an interrupted epoch.
"""

import contextlib
import dataclasses
import functools
import itertools
import json
import pathlib
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import keras

from agegender.files import remove_leftovers
from agegender.models.dtypes import list_devices
from agegender.models.keras_config import use_default_config
from agegender.schema import BEST_MODEL
from agegender.training import run_record
from agegender.training.callbacks import LAST_MODEL, make_callbacks
from agegender.training.checkpoints import (
    CHECKPOINTS,
    Checkpoint,
    CheckpointPolicy,
    load_checkpoint_from_chief,
    load_newest_checkpoint,
)
from agegender.training.data import CheckedGenerator, find_invalid_batch, iterate_batches, skip_batches
from agegender.training.processes import broadcast_from_chief, is_chief
from agegender.training.renew import has_trainable_batch_norm, renew_saved_models, take_images
from agegender.training.resume import CheckpointCallback, Progress, StatefulCallback, TrainingState
from agegender.training.run_record import list_differences
from agegender.training.signals import StopSignals, lock_workdir
from agegender.training.stages import Stage

_GENERATED_IMAGES: Final = 2048  # kept in memory to renew statistics: 250 MB at 200 pixels


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What `train` resolves from its arguments.

    Attributes:
        model: the model that is trained and saved.
        data: training data, from the first step.
        validation: validation data, or None.
        stages: all epochs of the run.
        learners: the compiled model of each stage; all share one optimizer.
        steps_per_epoch: batches per epoch.
        workdir: folder of the run.
        settings: what must not change when the run is resumed.
        run_info: further entries of run.json.
        checkpoints: when to write checkpoints.
    """

    model: keras.Model
    data: Any
    validation: Any
    stages: list[Stage]
    learners: list[keras.Model]
    steps_per_epoch: int
    workdir: pathlib.Path
    settings: Mapping[str, Any]
    run_info: Mapping[str, Any]
    checkpoints: CheckpointPolicy

    @property
    def folder(self) -> pathlib.Path:
        """Folder of the checkpoints."""
        return self.workdir / CHECKPOINTS


def check_workdir(workdir: pathlib.Path) -> None:
    """Checks that a run can start or resume in a folder.

    Raises:
        FileExistsError: if it contains a finished run or a model.
        OSError: if it contains an unfinished run without checkpoints.
    """
    if workdir.exists() and not workdir.is_dir():
        raise NotADirectoryError(f"`workdir` must be a folder, new or existing. Received: the file {workdir}")
    record = run_record.read_record(workdir)
    has_model = any((workdir / name).exists() for name in (BEST_MODEL, LAST_MODEL))
    has_lost_checkpoints = has_model and not any((workdir / CHECKPOINTS).glob("*.npz"))
    if record.get(run_record.FINISHED):
        shutil.rmtree(workdir / CHECKPOINTS, ignore_errors=True)  # the process may have ended before it removed them
    if record.get(run_record.FINISHED) or (has_lost_checkpoints and not record):
        raise FileExistsError(f"{workdir} contains a finished run. Choose another workdir, or move it away.")
    if has_lost_checkpoints:
        raise OSError(
            f"{workdir} contains an unfinished run, but not the checkpoints to resume it from. Choose another "
            "workdir, or move it away."
        )


def run_training(
    run: Run,
    inputs: contextlib.AbstractContextManager[tuple[Any, Any]],
    *,
    started: float,
    callbacks: Iterable[keras.callbacks.Callback] = (),
    verbose: int = 1,
) -> keras.callbacks.History:
    """Trains from the newest checkpoint in the workdir, or from the start, to the last epoch.

    Args:
        run: what to train.
        inputs: yields training and validation data for the learners, once the weights are restored.
        started: `time.monotonic()` when `train` was called.
        callbacks: further callbacks.
        verbose: as in Keras.

    Returns:
        Keras's History of all epochs.
    """
    signals, progress = StopSignals(), Progress(0, 0, run.steps_per_epoch)
    with contextlib.ExitStack() as stack:
        stack.enter_context(use_default_config())

        # Find out whether to start or to resume.
        def find_checkpoint() -> Checkpoint | None:
            stack.enter_context(lock_workdir(run.folder))
            check_workdir(run.workdir)
            return _find_checkpoint(run)

        _check_same_settings(run.settings)
        checkpoint = load_checkpoint_from_chief(find_checkpoint)
        resumed = checkpoint is not None

        # Make the callbacks.
        ours = make_callbacks(
            run.model,
            run.workdir if is_chief() else None,
            monitor="loss" if run.validation is None else "val_loss",
            progress=progress,
            first_best_epoch=run.stages[-1].first_epoch,
            find_bad_batch=functools.partial(_find_bad_batch, run),
        )
        saver = CheckpointCallback(
            TrainingState(run.model, run.learners),
            run.folder,
            progress=progress,
            policy=run.checkpoints,
            stateful_callbacks=[callback for callback in ours if isinstance(callback, StatefulCallback)],
            settings=run.settings,
            signals=signals,
        )

        # Restore and train.
        with _note_checkpoint(run.folder, saver):
            if checkpoint:
                saver.load(checkpoint)
                print(f"Resuming after {progress}, from {checkpoint.path}", file=sys.stderr)
                checkpoint = None  # frees as much memory as the weights and the optimizer take
            if is_chief():
                _write_record(run, progress if resumed else None)
                for folder in (run.folder, run.workdir):
                    remove_leftovers(folder)
            if not resumed:
                saver.save()  # a run that is started again then begins with the same random weights
            with inputs as (data, validation):
                if is_chief():
                    run_record.record_seconds(run.workdir, "set_up", time.monotonic() - started)
                with signals:
                    _fit_stages(
                        run,
                        data,
                        progress,
                        validation_data=validation,
                        callbacks=[*ours, *callbacks, saver],
                        verbose=verbose if is_chief() else 0,
                    )
        if is_chief():
            _renew_batch_norm(run)
            run_record.mark_finished(run.workdir)
            shutil.rmtree(run.folder)
    return next(callback for callback in ours if isinstance(callback, keras.callbacks.History))


@contextlib.contextmanager
def _note_checkpoint(folder: pathlib.Path, saver: CheckpointCallback) -> Iterator[None]:
    """Adds the last checkpoint to the message of an error: of a full disk, lost data or a lost process."""
    try:
        yield
    except Exception as error:
        error.add_note(
            f"The last checkpoint in {folder} is of step {saver.saved_step}; the same command resumes from it."
        )
        raise


def _check_same_settings(settings: Mapping[str, Any]) -> None:
    """Raises ValueError if process 0 has other settings than this process."""
    own = json.dumps(settings).encode()
    chief = broadcast_from_chief(lambda: own)
    if chief != own and (differences := list_differences(json.loads(chief), settings)):
        raise ValueError(f"All processes must train with the same settings. In process 0: {'; '.join(differences)}")


def _find_checkpoint(run: Run) -> Checkpoint | None:
    """Loads the newest checkpoint and compares its settings with those of the run.

    Before the first step, other settings are allowed: the run starts again.
    """
    checkpoint = load_newest_checkpoint(run.folder)
    if checkpoint is None:
        return None
    old = checkpoint.facts["settings"]
    # Differences in the config explain those in the other settings.
    differences = list_differences(old["config"], run.settings["config"]) or list_differences(old, run.settings)
    if not differences:
        return checkpoint
    if checkpoint.facts["epoch"] == checkpoint.facts["step"] == 0:
        return None
    raise ValueError(
        f"{run.workdir} contains a run with other settings: {'; '.join(differences)}. Resume with the settings of the "
        "run, or choose another workdir."
    )


def _write_record(run: Run, resumed_at: Progress | None) -> None:
    """Writes run.json before the first step; a resumed run only adds where it was resumed."""
    record, versions = run_record.read_record(run.workdir) if resumed_at else {}, run_record.list_versions()
    if resumed_at and (differences := list_differences(record.get("versions") or versions, versions)):
        print(
            f"Warning: the run was started with other versions, {'; '.join(differences)}; its results may differ",
            file=sys.stderr,
        )
    if not record:
        record = {
            "started": run_record.format_utc_now(),
            "command": sys.argv,
            "code": run_record.read_git_state(),
            "backend": keras.backend.backend(),
            "devices": list_devices(),
            "dtype_policy": keras.config.dtype_policy().name,
            "parameters": run.model.count_params(),
            "versions": versions,
            **run.run_info,
            "seconds": {},
        }
    if resumed_at:
        entry = {"at": run_record.format_utc_now(), "step": resumed_at.total_steps}
        record["resumed"] = [*(record.get("resumed") or []), entry]
    run_record.write_record(run.workdir, record)


def _fit_stages(run: Run, data: Any, progress: Progress, **options: Any) -> None:
    for stage, learner in zip(run.stages, run.learners, strict=True):
        while progress.epoch < stage.end_epoch:
            try:
                learner.fit(
                    skip_batches(data, progress.total_steps, run.steps_per_epoch),
                    initial_epoch=progress.epoch,
                    epochs=stage.end_epoch,
                    steps_per_epoch=run.steps_per_epoch - progress.step,
                    shuffle=False,  # the dataset is shuffled already
                    **options,
                )
            except Exception:
                for each in (run.data, run.validation):
                    if error := getattr(each, "error", None):
                        raise error from None
                raise


def _find_bad_batch(run: Run, step: int | None) -> None:
    """Raises ContractError if the batch of a step, or a batch of the validation data, breaks the data contract."""
    check = functools.partial(find_invalid_batch, heads=list(run.model.output), image_size=run.model.input_shape[1])
    if step is None:
        check(iterate_batches(run.validation), where="Batch {} of `validation`")
    elif not isinstance(run.data, CheckedGenerator):  # its batch is gone
        position = Progress(*divmod(step, run.steps_per_epoch), run.steps_per_epoch)
        position.step += 1
        batches = iterate_batches(skip_batches(run.data, step, run.steps_per_epoch))
        check(itertools.islice(batches, 1), where=f"The batch of {position}")


def _renew_batch_norm(run: Run) -> None:
    if not has_trainable_batch_norm(run.model):
        return

    def read_images() -> Iterator[Any]:
        batches = iterate_batches(skip_batches(run.data, 0, run.steps_per_epoch))
        return (images for images, *_ in itertools.islice(batches, run.steps_per_epoch))

    if isinstance(run.data, CheckedGenerator):  # its next batches, which can be read once
        images = list(take_images(read_images(), _GENERATED_IMAGES))
        if not images:
            print("Statistics of batch normalisation are not renewed: the generator has ended.", file=sys.stderr)
            return
        read_images = lambda: iter(images)  # noqa: E731
    renew_saved_models(run.workdir, run.model, read_images)
