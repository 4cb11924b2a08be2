"""Interrupted runs that resume and end as if they had not been interrupted."""

import csv
import itertools
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from conftest import SIZE, make_tiny_trunk

import agegender as ag
from agegender.models.batch_norm import add_batch_norm
from agegender.training import resume, run_record
from agegender.training.checkpoints import CheckpointPolicy, read_checkpoint
from agegender.training.data import skip_batches
from agegender.training.run import _note_checkpoint, check_workdir
from agegender.training.signals import Stopped, StopSignals

ROOT = pathlib.Path(__file__).parents[2]
STEPS = 3
SMALL_HEADS: dict[str, Any] = {"units": (8,), "age_dropout": (0.2,), "gender_dropout": (0.2,)}
Weights = list[np.ndarray]


class Batches(keras.utils.PyDataset):
    """Three batches of eight images."""

    def __init__(self, age: float | None = None) -> None:
        super().__init__()
        self._age = age

    def __len__(self) -> int:
        return STEPS

    def __getitem__(self, index: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        draw = np.random.default_rng(index)
        age, gender = draw.uniform(1, 90, (8, 1)), draw.integers(0, 2, (8, 1))
        images = draw.integers(0, 256, (8, SIZE, SIZE, 3), dtype="uint8")
        age = age if self._age is None else np.full((8, 1), self._age)
        return images, {"age": age.astype("float32"), "gender": gender.astype("float32")}


class Interrupted(Exception):
    pass


class Interrupt(keras.callbacks.Callback):
    """Raises an error, or sends this process a signal, after some steps."""

    def __init__(self, steps: int, number: signal.Signals | None = None) -> None:
        super().__init__()
        self._left, self._number = steps, number

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self._left -= 1
        if self._left == 0 and self._number:
            os.kill(os.getpid(), self._number)
        elif self._left == 0:
            raise Interrupted


def make_model(*, batch_norm: bool = False, **options: Any) -> keras.Model:
    tiny = make_tiny_trunk()
    trunk = keras.Model(tiny.inputs[0], tiny.outputs[0], name="tiny")
    return ag.build_model(add_batch_norm(trunk) if batch_norm else trunk, **{**SMALL_HEADS, **options})


def train(
    workdir: pathlib.Path,
    make: Callable[[], keras.Model] = make_model,
    *,
    data: Any = None,
    validation: Any = None,
    interrupt: keras.callbacks.Callback | None = None,
    epochs: int = 2,
    **options: Any,
) -> Weights:
    model = make()
    ag.train(
        model,
        Batches() if data is None else data,
        validation,
        workdir=workdir,
        epochs=epochs,
        steps_per_epoch=STEPS,
        callbacks=[interrupt] if interrupt else [],
        checkpoints=CheckpointPolicy(steps=1),
        verbose=0,
        **{"optimizer": ag.make_optimizer(steps=STEPS * epochs), **options},
    )
    return [np.array(weight) for weight in model.get_weights()]


def assert_equal_weights(first: Weights, second: Weights) -> None:
    assert all(itertools.starmap(np.array_equal, zip(first, second, strict=True)))


def assert_equal_runs(here: pathlib.Path, there: pathlib.Path) -> None:
    assert (here / "metrics.csv").read_bytes() == (there / "metrics.csv").read_bytes()
    for name in ("best.keras", "last.keras"):
        assert_equal_weights(*(keras.saving.load_model(folder / name).get_weights() for folder in (here, there)))
    assert not (here / "checkpoints").exists()


def use_all_features() -> dict[str, Any]:
    """Options that make every kind of state: statistics, dropout, augmentation, stages, a schedule."""
    return {
        "make": lambda: make_model(batch_norm=True, age_head="distribution"),
        "validation": Batches(),
        "augmentation": ag.Augmentation(seed=2),
        "optimizer": ag.make_optimizer(steps=2 * STEPS, learning_rate=1e-2),
        "image_sizes": [(1, 12)],
    }


def test_resume_in_each_stage_matches_uninterrupted_run(eager: None, tmp_path: pathlib.Path) -> None:
    keras.utils.set_random_seed(1)
    expected = train(tmp_path / "whole", **use_all_features())
    keras.utils.set_random_seed(1)
    for seed, steps in enumerate((3, 3)):  # checkpoints are of steps 2 and 4; the first was in the first stage
        with pytest.raises(Interrupted):
            train(tmp_path / "parts", interrupt=Interrupt(steps), **use_all_features())
        keras.utils.set_random_seed(100 + seed)  # all random state comes from the checkpoint
    received = train(tmp_path / "parts", **use_all_features())
    assert_equal_weights(expected, received)
    assert_equal_runs(tmp_path / "parts", tmp_path / "whole")
    assert [each["step"] for each in run_record.read_record(tmp_path / "parts")["resumed"]] == [2, 4]


def test_resumed_run_remembers_the_best_epoch(tmp_path: pathlib.Path) -> None:
    getting_worse = {"data": Batches(age=90), "validation": Batches(age=1), "loss_weights": {"gender": 0.0}}
    with pytest.raises(Interrupted):
        train(tmp_path, interrupt=Interrupt(STEPS + 1), **getting_worse)
    best = (tmp_path / "best.keras").read_bytes()
    train(tmp_path, **getting_worse)
    with open(tmp_path / "metrics.csv", newline="") as file:
        first, second = (float(row["val_loss"]) for row in csv.DictReader(file))
    assert first < second and (tmp_path / "best.keras").read_bytes() == best


@pytest.mark.slow
def test_utkface_resumes_within_an_epoch(prepared: pathlib.Path, tmp_path: pathlib.Path) -> None:
    def load() -> Any:
        return ag.load_utkface("train", batch_size=16, image_size=SIZE, training=True, seed=3, data_dir=prepared)

    keras.utils.set_random_seed(1)
    expected = train(tmp_path / "whole", data=load(), epochs=5)  # more than a pass
    keras.utils.set_random_seed(1)
    with pytest.raises(Interrupted):
        train(tmp_path / "parts", data=load(), epochs=5, interrupt=Interrupt(14))
    assert_equal_weights(expected, train(tmp_path / "parts", data=load(), epochs=5))
    assert_equal_runs(tmp_path / "parts", tmp_path / "whole")


@pytest.mark.slow
def test_cached_trunk_is_cached_again_and_resumes(tmp_path: pathlib.Path) -> None:
    def make_frozen() -> keras.Model:
        model = make_model()
        next(layer for layer in model.layers if isinstance(layer, keras.Model)).layers[2].trainable = False
        return model

    def options() -> dict[str, Any]:
        return {"make": make_frozen, "cache_trunk": 1, "augmentation": ag.Augmentation(seed=2)}

    keras.utils.set_random_seed(1)
    expected = train(tmp_path / "whole", **options())
    keras.utils.set_random_seed(1)
    with pytest.raises(Interrupted):
        train(tmp_path / "parts", interrupt=Interrupt(5), **options())
    assert_equal_weights(expected, train(tmp_path / "parts", **options()))
    assert_equal_runs(tmp_path / "parts", tmp_path / "whole")


def test_other_settings_are_refused_and_nothing_is_written(tmp_path: pathlib.Path) -> None:
    config = {"learning_rate": 0.0003, "augmentation": {"zoom": 0.1}}
    with pytest.raises(Interrupted):  # before the first checkpoint other settings start again
        train(tmp_path, interrupt=Interrupt(1), run_info={"config": {}}, loss_weights={"age": 3.0})
    with pytest.raises(Interrupted):
        train(tmp_path, interrupt=Interrupt(2), run_info={"config": config})
    assert "resumed" not in run_record.read_record(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    changes: dict[str, dict[str, Any]] = {
        "learning_rate was 0.0003, now 0.001; augmentation.zoom was 0.1, now 0.2. Resume with the settings": {
            "run_info": {"config": {"learning_rate": 0.001, "augmentation": {"zoom": 0.2}}}
        },
        "parameters was": {"make": lambda: make_model(batch_norm=True)},
        "epochs was 2, now 3": {"epochs": 3},
        "loss_weights.gender was 1.0, now 2.0. Resume": {"loss_weights": {"gender": 2.0}},
        "image_sizes was": {"image_sizes": [(1, 12)]},
        "augmentation was": {"augmentation": ag.Augmentation(seed=1)},
        "optimizer.weight_decay was 0.0001, now 0.01": {
            "optimizer": ag.make_optimizer(steps=2 * STEPS, weight_decay=0.01)
        },
    }
    for message, options in changes.items():
        with pytest.raises(ValueError, match=rf"other settings: (.*; )?{re.escape(message)}"):
            train(tmp_path, **{"run_info": {"config": config}, **options})
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


# ---- checkpoints during `fit`


def make_checkpoint_callback(
    folder: pathlib.Path, variables: list[keras.Variable] | None = None, **policy: Any
) -> resume.CheckpointCallback:
    """A callback of a run of 10 steps per epoch, ready for `on_train_batch_end`."""
    state = types.SimpleNamespace(list_readers=lambda _: [(lambda v=v: np.array(v)) for v in variables or []], names=[])
    callback = resume.CheckpointCallback(
        state,
        folder,
        progress=resume.Progress(0, 0, 10),
        policy=CheckpointPolicy(**policy),
        stateful_callbacks=[],
        settings={},
        signals=StopSignals(),
    )
    callback.set_model(keras.Sequential())
    callback.on_epoch_begin(0)
    return callback


def list_steps(folder: pathlib.Path) -> list[int]:
    return sorted(int(path.stem.removeprefix("step-")) for path in folder.glob("step-*.npz"))


def test_checkpoint_clock_restarts_after_each_checkpoint(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(resume, "time", types.SimpleNamespace(monotonic=lambda: now))
    callback = make_checkpoint_callback(tmp_path, keep=10)  # 300 seconds by default
    for batch, seconds in enumerate((299, 1, 1, 298, 1, 299)):  # since the step before
        now += seconds
        callback.on_train_batch_end(batch)
    assert list_steps(tmp_path) == [2, 5]


def test_checkpoints_every_n_steps(tmp_path: pathlib.Path) -> None:
    callback = make_checkpoint_callback(tmp_path, seconds=1e9, steps=2, keep=3)
    for batch in range(9):
        callback.on_train_batch_end(batch)
    assert list_steps(tmp_path) == [4, 6, 8]
    callback.on_train_batch_end(9)
    assert list_steps(tmp_path) == [4, 6, 8], "the end of the epoch is saved with its validation"


def test_non_finite_state_is_not_saved(tmp_path: pathlib.Path) -> None:
    model = make_model(batch_norm=True)
    trunk = next(layer for layer in model.layers if isinstance(layer, keras.Model))
    trunk.trainable = False
    learner = resume_learner(model)
    state = resume.TrainingState(model, [learner])
    for variable in (trunk.weights[0], model.layers[-1].weights[0], learner.optimizer.variables[-1]):
        before = np.array(variable)
        variable.assign(np.full(variable.shape, np.nan))
        readers = state.list_readers()
        with pytest.raises(FloatingPointError, match=r"A weight is not finite after step 2 \(epoch 1, batch 2\)"):
            for read in readers:
                resume._check_finite(read(), resume.Progress(0, 2, 3))
        variable.assign(before)
    for read in state.list_readers():
        resume._check_finite(read(), resume.Progress(0, 2, 3))


def resume_learner(model: keras.Model) -> keras.Model:
    from agegender.training.learner import compile_learner, make_learner

    return compile_learner(make_learner(model), ag.make_optimizer(steps=10))


def test_training_state_has_every_variable() -> None:
    model = make_model(batch_norm=True)
    learner = resume_learner(model)
    state = resume.TrainingState(model, [learner])
    weights = len(model.variables)  # random states of the dropouts included
    moments = 2 * len(model.trainable_variables)
    assert len(state.names) == weights + moments + 1  # the iterations of the optimizer
    assert learner.metrics_variables and all(np.all(np.array(value) == 0) for value in learner.metrics_variables)
    arrays = [read() for read in state.list_readers(learner)]
    assert len(state.restore(arrays)) == len(learner.metrics_variables)
    with pytest.raises(ValueError, match="does not match the model and the optimizer"):
        state.restore(arrays[1:])


# ---- skipping batches


def test_generator_cannot_be_skipped() -> None:
    generated = (Batches()[index % STEPS] for index in itertools.count())
    assert skip_batches(generated, 0, STEPS) is generated
    assert skip_batches(types.SimpleNamespace(from_step=lambda step: f"from {step}"), 3, STEPS) == "from 3"
    with pytest.raises(ValueError, match=r"To resume at step 3, `data` must be .* Received: a generator"):
        skip_batches(generated, 3, STEPS)


@pytest.mark.parametrize(("step", "expected"), [(0, [0, 1, 2, 3]), (8, [0, 1, 2, 3]), (3, [3, 0, 1, 2])])
def test_datasets_start_at_any_step(step: int, expected: list[int]) -> None:
    import tensorflow as tf

    class Numbers(keras.utils.PyDataset):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> int:
            return index

        def on_epoch_end(self) -> None:
            ended.append(len(ended))

    ended: list[int] = []
    for steps_per_epoch in (4, 3):
        later = skip_batches(Numbers(), step, steps_per_epoch)
        assert later.num_batches == 4 and [later[index] for index in range(4)] == expected
        later.on_epoch_end()
    assert len(ended) == 2, "a dataset that shuffles at the end of an epoch is notified"
    endless = type("Endless", (Numbers,), {"num_batches": None})()
    assert skip_batches(endless, step, 4)[1] == step + 1
    assert list(skip_batches(tf.data.Dataset.range(4), step, 4).take(4).as_numpy_iterator()) == expected


# ---- kill -9, SIGTERM, a second process

PROGRAM = """
import pathlib, sys, time
sys.path[:0] = ["tests", "tests/training"]
import keras
import resume_test as tests

class Slow(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        print("step", flush=True)
        time.sleep(0.05)

keras.utils.set_random_seed(int(sys.argv[2]))
tests.train(pathlib.Path(sys.argv[1]), epochs=4, validation=tests.Batches(), interrupt=Slow())
"""


def start(workdir: pathlib.Path, seed: int = 1, *, backend: str = "tensorflow") -> subprocess.Popen:
    environ = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", PROGRAM, str(workdir), str(seed)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environ, **pipes)


def wait_for_steps(program: subprocess.Popen, count: int) -> None:
    assert program.stdout
    for _ in range(count):
        assert program.stdout.readline() == "step\n", program.communicate()[1]


def finish(program: subprocess.Popen) -> None:
    errors = program.communicate()[1]
    assert program.returncode == 0, errors


def test_resume_after_kill_and_sigterm_matches_uninterrupted_run(
    tmp_path: pathlib.Path, capfd: pytest.CaptureFixture
) -> None:
    parts = tmp_path / "parts"
    killed = start(parts)
    wait_for_steps(killed, 5)
    with pytest.raises(BlockingIOError, match=f"Process {killed.pid} is training in {parts}. Wait for it"):
        train(parts, epochs=4, validation=Batches())
    killed.kill()
    killed.communicate()
    keras.utils.set_random_seed(1)
    train(tmp_path / "whole", epochs=4, validation=Batches())

    keras.utils.set_random_seed(2)
    done = max(list_steps(parts / "checkpoints"))
    assert 4 <= done < 4 * STEPS
    with pytest.raises(Stopped, match=r"SIGTERM: stopped after step \d+ \(.*\), checkpoint saved") as stopped:
        train(parts, epochs=4, validation=Batches(), interrupt=Interrupt(1, signal.SIGTERM))
    assert stopped.value.code == 75 and capfd.readouterr().err.rstrip().endswith("Run the same command to resume.")
    newest = sorted((parts / "checkpoints").glob("*.npz"))[-1]
    facts = read_checkpoint(newest).facts
    assert facts["epoch"] * STEPS + facts["step"] == done + 1

    train(parts, epochs=4, validation=Batches())
    assert_equal_runs(parts, tmp_path / "whole")
    record = json.loads((parts / "run.json").read_text())
    assert [each["step"] for each in record["resumed"]] == [done, done + 1]
    assert len(record["seconds"]["epochs"]) == 4 and record["finished"]
    assert f"from step {done} at" in run_record.describe_run(parts)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_killed_and_resumed_program_matches_uninterrupted_one(tmp_path: pathlib.Path, backend: str) -> None:
    finish(start(tmp_path / "whole", backend=backend))
    parts, draw = tmp_path / "parts", random.Random(backend)

    killed = start(parts, backend=backend)
    wait_for_steps(killed, draw.randrange(2, 6))
    time.sleep(draw.uniform(0, 0.1))
    killed.kill()
    killed.communicate()

    stopped = start(parts, seed=2, backend=backend)
    wait_for_steps(stopped, draw.randrange(2, 4))
    stopped.send_signal(signal.SIGTERM)
    errors = stopped.communicate()[1].splitlines()
    assert stopped.returncode == 75, errors
    assert re.fullmatch(r"SIGTERM: stopped after step \d+ \(.*\), checkpoint saved\. Run the same .*", errors[-1])

    finish(start(parts, seed=3, backend=backend))
    assert_equal_runs(parts, tmp_path / "whole")
    assert len(json.loads((parts / "run.json").read_text())["resumed"]) == 2


def test_error_names_the_last_checkpoint(tmp_path: pathlib.Path) -> None:
    with pytest.raises(OSError) as error, _note_checkpoint(tmp_path, types.SimpleNamespace(saved_step=7)):  # type: ignore[arg-type]
        raise OSError("File too large")
    assert error.value.__notes__ == [
        f"The last checkpoint in {tmp_path} is of step 7; the same command resumes from it."
    ]


# ---- the workdir


def test_workdir_without_its_checkpoints_is_not_finished(tmp_path: pathlib.Path) -> None:
    (tmp_path / "best.keras").touch()
    with pytest.raises(FileExistsError, match="contains a finished run"):
        check_workdir(tmp_path)
    run_record.write_record(tmp_path, {"seconds": None})
    with pytest.raises(OSError, match="an unfinished run, but not the checkpoints") as error:
        check_workdir(tmp_path)
    assert not isinstance(error.value, FileExistsError)
    with pytest.raises(NotADirectoryError, match="Received: the file"):
        check_workdir(tmp_path / "best.keras")


def test_checkpoints_that_a_finished_run_left_are_removed(tmp_path: pathlib.Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-00000003.npz").touch()
    run_record.mark_finished(tmp_path)
    with pytest.raises(FileExistsError, match="contains a finished run"):
        check_workdir(tmp_path)
    assert not (tmp_path / "checkpoints").exists()


def test_incomplete_record_resumes(tmp_path: pathlib.Path) -> None:
    with pytest.raises(Interrupted):
        train(tmp_path, epochs=1, interrupt=Interrupt(2))
    (tmp_path / "run.json").write_text('{"started": "then", "seconds": null, "resumed": null}')
    train(tmp_path, epochs=1)
    record = run_record.read_record(tmp_path)
    assert record["started"] == "then" and len(record["seconds"]["epochs"]) == 1 and record["finished"]


@pytest.mark.parametrize(
    "content",
    [
        *("", '{"config": {', "[1, 2]", "7", "null", "[" * 100_000),
        *('{"seconds": [1]}', '{"seconds": {"epochs": null}}', '{"seconds": {"epochs": 3}}', '{"versions": ["keras"]}'),
        *('{"code": {"commit": "0123"}}', '{"command": [1]}', '{"resumed": [{"step": 3}]}', '{"data_dir": 5}'),
    ],
)
def test_damaged_record_is_named(tmp_path: pathlib.Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ValueError, match=r"run\.json is damaged or not the record of a run"):
        check_workdir(tmp_path)
