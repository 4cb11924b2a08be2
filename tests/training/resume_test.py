"""Runs that are stopped and go on, and end as if they had not been."""

import csv
import functools
import itertools
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from conftest import SIZE, make_tiny_trunk

import agegender as ag
from agegender.models.batch_norm import add_batch_norm
from agegender.training import run_record
from agegender.training.checkpoints import CheckpointPolicy
from agegender.training.data import skip_batches
from agegender.training.run import check_workdir

ROOT = pathlib.Path(__file__).parents[2]
STEPS = 4
EACH_STEP = CheckpointPolicy(steps=1)
Weights = list[np.ndarray]


class Batches(keras.utils.PyDataset):
    """Four batches of eight images."""

    def __len__(self) -> int:
        return STEPS

    def __getitem__(self, index: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        draw = np.random.default_rng(index)
        age, gender = draw.uniform(1, 90, (8, 1)), draw.integers(0, 2, (8, 1))
        images = draw.integers(0, 256, (8, SIZE, SIZE, 3), dtype="uint8")
        return images, {"age": age.astype("float32"), "gender": gender.astype("float32")}


class Stopping(Exception):
    pass


class Stop(keras.callbacks.Callback):
    """What a fault in the middle of a run looks like, after so many steps."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._left = steps

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self._left -= 1
        if self._left == 0:
            raise Stopping("stopped by the test")


def make_model(*, batch_norm: bool = False, **options: Any) -> keras.Model:
    tiny = make_tiny_trunk()
    trunk = keras.Model(tiny.inputs[0], tiny.outputs[0], name="tiny")  # as `vggface_trunk` gives one
    return ag.build_model(add_batch_norm(trunk) if batch_norm else trunk, **options)


def go(
    workdir: pathlib.Path,
    make: Callable[[], keras.Model] = make_model,
    *,
    stop: int = 0,
    epochs: int = 2,
    **options: Any,
) -> Weights:
    model = make()
    given: dict[str, Any] = {"train": Batches(), "optimizer": ag.make_optimizer(steps=STEPS * epochs), **options}
    given |= {"callbacks": [Stop(stop)] if stop else [], "checkpoints": CheckpointPolicy(steps=1), "verbose": 0}
    ag.train(
        model,
        given.pop("train"),
        given.pop("validation", None),
        workdir=workdir,
        epochs=epochs,
        steps_per_epoch=STEPS,
        **given,
    )
    return [np.array(weight) for weight in model.get_weights()]


def equal(first: Weights, second: Weights) -> bool:
    return all(itertools.starmap(np.array_equal, zip(first, second, strict=True)))


def assert_equal_runs(here: pathlib.Path, there: pathlib.Path) -> None:
    assert (here / "metrics.csv").read_bytes() == (there / "metrics.csv").read_bytes()
    for name in ("best.keras", "last.keras"):
        models = [keras.saving.load_model(folder / name).get_weights() for folder in (here, there)]
        assert equal(*models), name
    assert not (here / "checkpoints").exists()


def everything() -> dict[str, Any]:
    return {
        "make": lambda: make_model(batch_norm=True, age_head="distribution"),
        "epochs": 3,
        "validation": Batches(),
        "augmentation": ag.Augmentation(seed=2),
        "optimizer": ag.make_optimizer(steps=3 * STEPS, learning_rate=1e-2),
        "image_sizes": [(1, 12)],
    }


def test_a_run_stopped_in_each_of_its_stages_ends_with_the_same_weights(tmp_path: pathlib.Path) -> None:
    """Image sizes, statistics of a normalisation, dropout, augmentation, the schedule."""
    keras.utils.set_random_seed(1)
    expected = go(tmp_path / "whole", **everything())
    keras.utils.set_random_seed(1)
    for seed, stop in enumerate((3, 4)):
        with pytest.raises(Stopping):
            go(tmp_path / "parts", stop=stop, **everything())
        keras.utils.set_random_seed(100 + seed)  # what was random in the beginning comes from the checkpoint
    received = go(tmp_path / "parts", **everything())
    assert equal(expected, received)
    assert_equal_runs(tmp_path / "parts", tmp_path / "whole")
    assert [each["step"] for each in run_record.read_record(tmp_path / "parts")["resumed"]] == [2, 5]


class OfOneAge(Batches):
    def __init__(self, age: float) -> None:
        super().__init__()
        self._age = age

    def __getitem__(self, index: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        images, targets = super().__getitem__(index)
        return images, {**targets, "age": np.full((8, 1), self._age, "float32")}


def test_a_run_that_goes_on_knows_which_epoch_was_the_best(tmp_path: pathlib.Path) -> None:
    small = functools.partial(make_model, units=(8,), age_dropout=(0.0,), gender_dropout=(0.0,))
    ever_worse: dict[str, Any] = {
        "train": OfOneAge(90),
        "validation": OfOneAge(1),
        "loss_weights": {"gender": 0.0},
        "make": small,
    }
    with pytest.raises(Stopping):
        go(tmp_path, stop=STEPS + 1, **ever_worse)
    before = (tmp_path / "best.keras").read_bytes()
    go(tmp_path, **ever_worse)
    with open(tmp_path / "metrics.csv", newline="") as file:
        first, second = (float(row["val_loss"]) for row in csv.DictReader(file))
    assert first < second and (tmp_path / "best.keras").read_bytes() == before


def test_a_stream_of_utkface_goes_on_in_the_middle_of_an_epoch(prepared: pathlib.Path, tmp_path: pathlib.Path) -> None:
    def stream() -> Any:
        options: dict[str, Any] = {"batch_size": 16, "image_size": SIZE, "data_dir": prepared}
        return ag.load_utkface("train", training=True, seed=3, **options)

    keras.utils.set_random_seed(1)
    expected = go(tmp_path / "whole", train=stream(), epochs=4)  # more than a pass
    assert stream().steps_per_epoch < 4 * STEPS
    keras.utils.set_random_seed(1)
    with pytest.raises(Stopping):
        go(tmp_path / "parts", train=stream(), epochs=4, stop=15)
    assert equal(expected, go(tmp_path / "parts", train=stream(), epochs=4))
    assert_equal_runs(tmp_path / "parts", tmp_path / "whole")


def test_a_recorded_trunk_is_recorded_anew_and_goes_on(tmp_path: pathlib.Path) -> None:
    def frozen() -> keras.Model:
        model = make_model()
        next(layer for layer in model.layers if isinstance(layer, keras.Model)).layers[2].trainable = False
        return model

    def options() -> dict[str, Any]:
        return {"make": frozen, "cache_trunk": 1, "augmentation": ag.Augmentation(seed=2), "validation": Batches()}

    keras.utils.set_random_seed(1)
    expected = go(tmp_path / "whole", **options())
    keras.utils.set_random_seed(1)
    with pytest.raises(Stopping):
        go(tmp_path / "parts", stop=6, **options())
    assert equal(expected, go(tmp_path / "parts", **options()))
    assert_equal_runs(tmp_path / "parts", tmp_path / "whole")
    assert not (tmp_path / "parts" / "trunk_cache").exists()


# ---- what is refused and what is said


def test_other_settings_are_named_before_anything_is_written(tmp_path: pathlib.Path) -> None:
    config = {"learning_rate": 0.0003, "sizes": "1x12", "augmentation": {"zoom": 0.1}}
    with pytest.raises(Stopping):  # nothing is learnt yet: other settings begin anew
        go(tmp_path, stop=1, run_info={"config": {}}, loss_weights={"age": 3.0})
    with pytest.raises(Stopping):
        go(tmp_path, stop=2, run_info={"config": config})
    assert "resumed" not in run_record.read_record(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    others = {**config, "learning_rate": 0.001, "augmentation": {"zoom": 0.2}}
    words = r"learning_rate was 0.0003, now 0.001; augmentation.zoom was 0.1, now 0.2. Resume with the settings"
    with pytest.raises(ValueError, match=re.escape(words)):
        go(tmp_path, run_info={"config": others}, optimizer=ag.make_optimizer(steps=8, learning_rate=0.001))
    with pytest.raises(ValueError, match=r"other settings: loss_weights\.age was 1\.0, now 2\.0\. Resume"):
        go(tmp_path, run_info={"config": config}, loss_weights={"age": 2.0})
    with pytest.raises(ValueError, match=r"parameters was \d+, now \d+"):
        go(tmp_path, lambda: make_model(batch_norm=True), run_info={"config": config})
    others_still: dict[str, dict[str, Any]] = {
        "epochs was 2, now 3": {"epochs": 3},
        "loss_weights.gender was 1.0, now 2.0": {"loss_weights": {"gender": 2.0}},
        "image_sizes": {"image_sizes": [(1, 12)]},
        "augmentation": {"augmentation": ag.Augmentation(seed=1)},
        "optimizer.weight_decay was 0.0001, now 0.01": {
            "optimizer": ag.make_optimizer(steps=2 * STEPS, weight_decay=0.01)
        },
    }
    for words, options in others_still.items():
        with pytest.raises(ValueError, match=rf"other settings: (.*; )?{re.escape(words)}"):
            go(tmp_path, run_info={"config": config}, **options)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_weight_that_is_not_finite_is_not_saved(tmp_path: pathlib.Path) -> None:
    class Poison(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
            if batch == 1:
                self.model.trainable_variables[0].assign(np.nan + self.model.trainable_variables[0])

    keras.utils.set_random_seed(1)
    model = make_model()
    with pytest.raises(FloatingPointError, match=r"A weight is not finite after step 2 \(epoch 1, batch 2\)"):
        ag.train(
            model,
            Batches(),
            workdir=tmp_path,
            epochs=1,
            callbacks=[Poison()],
            checkpoints=CheckpointPolicy(steps=1),
            verbose=0,
        )
    names = sorted(path.name for path in (tmp_path / "checkpoints").glob("*"))
    assert names == ["lock", "step-00000000.npz", "step-00000001.npz"]


@pytest.mark.parametrize(("policy", "steps"), [({"seconds": 1e-9}, [2, 3]), ({"seconds": 1e9, "steps": 2}, [0, 2])])
def test_a_checkpoint_is_written_after_so_many_seconds_or_steps(
    tmp_path: pathlib.Path, policy: dict, steps: list[int]
) -> None:
    keras.utils.set_random_seed(1)
    with pytest.raises(Stopping):
        checkpoints = CheckpointPolicy(**policy)
        ag.train(
            make_model(), Batches(), workdir=tmp_path, epochs=1, callbacks=[Stop(4)], checkpoints=checkpoints, verbose=0
        )
    written = sorted(int(path.stem.removeprefix("step-")) for path in (tmp_path / "checkpoints").glob("*.npz"))
    assert written == steps


def test_data_that_only_begin_at_the_beginning_cannot_go_on(tmp_path: pathlib.Path) -> None:
    generated = (Batches()[index % STEPS] for index in itertools.count())
    assert skip_batches(generated, 0, STEPS) is generated
    with pytest.raises(ValueError, match=r"To resume at step 3, `data` must be .* Received: a generator"):
        skip_batches(generated, 3, STEPS)


def test_a_stream_of_utkface_begins_at_any_step_however_often_it_was_begun(prepared: pathlib.Path) -> None:
    options: dict[str, Any] = {"batch_size": 16, "image_size": SIZE, "data_dir": prepared}
    stream = ag.load_utkface("train", training=True, seed=3, skip=1, **options)
    ages = [targets["age"] for _, targets in stream.take(20).as_numpy_iterator()]
    for later in (stream.from_step(13), stream.from_step(6).from_step(7)):
        found = [targets["age"] for _, targets in later.take(7).as_numpy_iterator()]
        np.testing.assert_array_equal(found, ages[13:])
        assert later.steps_per_epoch == stream.steps_per_epoch


@pytest.mark.parametrize(("step", "expected"), [(0, [0, 1, 2, 3]), (8, [0, 1, 2, 3]), (3, [3, 0, 1, 2])])
def test_batches_begin_at_any_step(step: int, expected: list[int]) -> None:
    class Numbers(keras.utils.PyDataset):
        def __len__(self) -> int:
            return STEPS

        def __getitem__(self, index: int) -> int:
            return index

        def on_epoch_end(self) -> None:
            ended.append(len(ended))

    import tensorflow as tf

    ended: list[int] = []
    for steps_per_epoch in (STEPS, 3):
        later = skip_batches(Numbers(), step, steps_per_epoch)
        assert later.num_batches == STEPS and [later[index] for index in range(STEPS)] == expected
        later.on_epoch_end()
    assert len(ended) == 2, "a data set that shuffles at the end of an epoch is told of it"
    assert list(skip_batches(tf.data.Dataset.range(STEPS), step, STEPS).take(STEPS).as_numpy_iterator()) == expected


def test_a_shard_cut_short_ends_a_run_in_one_line(prepared: pathlib.Path, tmp_path: pathlib.Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(prepared, data)
    train = ag.load_utkface("train", batch_size=16, training=True, image_size=SIZE, data_dir=data)
    shard = sorted(data.rglob("*train.tfrecord*"))[-1]
    os.truncate(shard, shard.stat().st_size - 5)  # once loading has checked it
    with pytest.raises(
        OSError, match=r"^DataLossError: .*truncated record at.*checkpoint in .* is of step 0\. Fix"
    ) as raised:
        go(tmp_path / "run", train=train)
    assert len(str(raised.value).splitlines()) == 1


# ---- whole processes: kill -9, SIGTERM, a full disk, a second trainer, JAX


PROGRAM = """
import sys, time
import keras, numpy as np
import agegender as ag
from agegender.training.checkpoints import CheckpointPolicy

class Batches(keras.utils.PyDataset):
    def __len__(self): return 10
    def __getitem__(self, index):
        draw = np.random.default_rng(index)
        images = draw.integers(0, 256, (4, 24, 24, 3), dtype="uint8")
        return images, {"age": draw.uniform(1, 90, (4, 1)).astype("float32")}

class Slow(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        print("step", flush=True)
        time.sleep(SECONDS)

SECONDS = 0.05
"""
TRAIN = """
trunk = keras.Sequential([keras.Input((24, 24, 3)), keras.layers.Rescaling(1 / 255),
                          keras.layers.Conv2D(4, 3, strides=2), keras.layers.GlobalAveragePooling2D()])
ag.train(ag.build_model(trunk, heads=["age"]), Batches(), Batches(), workdir=sys.argv[1], epochs=3, callbacks=[Slow()],
         optimizer=ag.make_optimizer(steps=30), checkpoints=CheckpointPolicy(steps=3), verbose=0)
"""


def start(code: str, *arguments: str | os.PathLike, backend: str = "tensorflow") -> subprocess.Popen:
    environ = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environ, **pipes)


def wait_for_steps(program: subprocess.Popen, count: int) -> None:
    assert program.stdout
    for _ in range(count):
        assert program.stdout.readline() == "step\n", program.communicate()[1]


def finish(program: subprocess.Popen) -> None:
    errors = program.communicate()[1]
    assert program.returncode == 0, errors


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_a_program_that_is_killed_stopped_and_started_again_ends_with_the_same_weights(
    tmp_path: pathlib.Path, backend: str
) -> None:
    seeded = f"{PROGRAM}\nkeras.utils.set_random_seed(1)\n{TRAIN}"
    finish(start(seeded.replace("0.05", "0"), tmp_path / "whole", backend=backend))
    parts, draw = tmp_path / "parts", random.Random(backend)

    killed = start(seeded, parts, backend=backend)
    wait_for_steps(killed, draw.randrange(2, 9))
    killed.send_signal(signal.SIGSTOP)  # or it would be done before the second one has begun
    second = start(seeded, parts, backend=backend)
    assert f"Process {killed.pid} is training in {parts}. Wait for it" in second.communicate()[1]
    assert second.returncode == 1
    killed.send_signal(signal.SIGCONT)
    time.sleep(draw.uniform(0, 0.1))
    killed.kill()
    killed.communicate()

    unseeded = f"{PROGRAM}\nkeras.utils.set_random_seed(2)\n{TRAIN}"
    stopped = start(unseeded, parts, backend=backend)
    wait_for_steps(stopped, draw.randrange(2, 9))
    stopped.send_signal(signal.SIGTERM)
    words = stopped.communicate()[1].splitlines()
    assert stopped.returncode == 75
    assert re.fullmatch(
        r"SIGTERM: stopped after step \d+ \(.*\), checkpoint saved. Run the same command to resume\.", words[-1]
    )

    finish(start(unseeded, parts, backend=backend))
    assert_equal_runs(parts, tmp_path / "whole")
    record = json.loads((parts / "run.json").read_text())
    assert len(record["resumed"]) == 2 and len(record["seconds"]["epochs"]) == 3 and record["finished"]
    assert "resumed" in run_record.describe_run(parts)


def test_a_full_disk_ends_a_run_in_one_line_with_its_last_good_state(tmp_path: pathlib.Path) -> None:
    full = """
import resource
class Full(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
Slow = Full
try:
    {train}
except OSError as error:
    print(error)
"""
    program = start(PROGRAM + full.replace("{train}", TRAIN.strip().replace("\n", "\n    ")), tmp_path)
    out, errors = program.communicate()
    assert re.fullmatch(
        r"File too large.*\. The last checkpoint in .* is of step 3\. Fix that, then run .*again\.\n", out
    ), errors
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["lock", "step-00000000.npz", "step-00000003.npz"]


def test_a_run_without_the_checkpoints_that_it_needs_is_not_called_finished(tmp_path: pathlib.Path) -> None:
    (tmp_path / "best.keras").touch()
    with pytest.raises(FileExistsError, match="contains a finished run"):
        check_workdir(tmp_path)
    run_record.write_record(tmp_path, {"seconds": {}})
    with pytest.raises(OSError, match="an unfinished run, but not the checkpoints") as error:
        check_workdir(tmp_path)
    assert not isinstance(error.value, FileExistsError)


@pytest.mark.parametrize("content", ["", '{"config": {', "[1, 2]", "7"])
def test_a_damaged_record_is_named(tmp_path: pathlib.Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ValueError, match=r"run\.json is damaged or not the record of a run"):
        check_workdir(tmp_path)
