"""Checkpoint files, the lock of a workdir, signals and run.json, without training."""

import datetime
import importlib.metadata
import itertools
import json
import os
import pathlib
import platform
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from typing import Any

import numpy as np
import pytest

from agegender import files
from agegender.training import checkpoints, run_record, signals

ROOT = pathlib.Path(__file__).parents[2]
ARRAYS = [
    np.arange(6, dtype="float32").reshape(2, 3),
    np.array(7, "int64"),
    np.zeros((0, 2), "uint8"),
    np.array([True]),
]
FACTS = {"epoch": 0, "settings": {"steps_per_epoch": 9, "config": {}}, "callbacks": [], "value": 0.1}


def write(folder: pathlib.Path, step: int, **options: int) -> pathlib.Path:
    return checkpoints.write_checkpoint(folder, step, ARRAYS, {**FACTS, "step": step}, **options)


def names(folder: pathlib.Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def python(code: str, *arguments: str | os.PathLike) -> subprocess.Popen:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_checkpoint_round_trip(tmp_path: pathlib.Path) -> None:
    found = checkpoints.read_checkpoint(write(tmp_path, 12))
    assert found.facts == {**FACTS, "step": 12} and found.path.name == "step-00000012.npz"
    for array, expected in zip(found.arrays, ARRAYS, strict=True):
        assert array.dtype == expected.dtype and array.shape == expected.shape and np.array_equal(array, expected)
    assert names(tmp_path) == ["step-00000012.npz"]
    np.testing.assert_array_equal(np.load(found.path)["0000"], ARRAYS[0])


def test_newest_checkpoints_are_kept(tmp_path: pathlib.Path) -> None:
    for step in (0, 5, 99_999_999, 100_000_000):
        write(tmp_path, step, keep=3)
    assert names(tmp_path) == ["step-00000005.npz", "step-100000000.npz", "step-99999999.npz"]
    newest = checkpoints.load_newest_checkpoint(tmp_path)
    assert newest and newest.facts["step"] == 100_000_000
    write(tmp_path, 7, keep=1)
    assert names(tmp_path) == ["step-00000007.npz"]


def test_flipped_bits_are_detected(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path, 1)
    whole, noticed = path.read_bytes(), 0
    for place in random.Random(0).sample(range(len(whole)), 400):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        try:
            found = checkpoints.read_checkpoint(path)
        except checkpoints.UnreadableCheckpointError:
            noticed += 1
        else:  # a date, or a permission, of the archive
            assert found.facts == {**FACTS, "step": 1}
            assert all(itertools.starmap(np.array_equal, zip(found.arrays, ARRAYS, strict=True)))
    assert noticed > 200


@pytest.mark.parametrize("length", [0, 10, 500, -1])
def test_truncated_checkpoint_falls_back_to_the_previous_one(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture, length: int
) -> None:
    write(tmp_path, 1)
    path = write(tmp_path, 2)
    path.write_bytes(path.read_bytes()[:length])
    found = checkpoints.load_newest_checkpoint(tmp_path)
    assert found and found.facts["step"] == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"Warning: {path} cannot be read: ") and line.endswith(
        "falling back to the checkpoint before it."
    )


@pytest.mark.parametrize(
    "facts",
    [
        *({}, [1], {"epoch": "1"}, {"epoch": -1}, {"epoch": 1_000_000}, {"step": 3}, {"callbacks": None}),
        *({"settings": {}}, {"settings": {"steps_per_epoch": 9, "config": None}}),
    ],
)
def test_checkpoint_of_another_kind_falls_back_to_the_previous_one(tmp_path: pathlib.Path, facts: Any) -> None:
    write(tmp_path, 1)
    changed = {**FACTS, "step": 2, **facts} if isinstance(facts, dict) and facts else facts
    checkpoints.write_checkpoint(tmp_path, 2, ARRAYS, changed)
    found = checkpoints.load_newest_checkpoint(tmp_path)
    assert found and found.facts["step"] == 1


def test_compressed_checkpoint_is_not_unpacked(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "step-00000002.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("facts.json", json.dumps({**FACTS, "step": 2}))
    with pytest.raises(checkpoints.UnreadableCheckpointError, match="its entries are compressed"):
        checkpoints.read_checkpoint(path)


def test_other_files_in_the_folder_are_ignored(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path, 4)
    for name in ("step-copy.npz", "step-00000009 (1).npz", "step-00000009.npz.bak"):
        (tmp_path / name).write_bytes(path.read_bytes())
    (tmp_path / "step-00000010.npz").mkdir()
    newest = checkpoints.load_newest_checkpoint(tmp_path)
    assert newest and newest.path == path
    write(tmp_path, 5, keep=1)
    assert "step-copy.npz" in names(tmp_path) and "step-00000004.npz" not in names(tmp_path)


def test_only_damaged_checkpoints_are_an_error(tmp_path: pathlib.Path) -> None:
    assert checkpoints.load_newest_checkpoint(tmp_path / "none") is None
    (tmp_path / "step-00000001.npz").write_bytes(b"")
    with pytest.raises(
        checkpoints.UnreadableCheckpointError, match=r"None of the 1 checkpoints in .* choose another workdir"
    ):
        checkpoints.load_newest_checkpoint(tmp_path)


def test_damaged_checkpoint_of_step_0_starts_from_scratch(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "step-00000000.npz").write_bytes(b"")
    assert checkpoints.load_newest_checkpoint(tmp_path) is None
    assert "starting from scratch" in capsys.readouterr().err


@pytest.mark.parametrize("options", [{"seconds": 0}, {"steps": -1}, {"keep": 0}, {"seconds": float("nan")}])
def test_policy_out_of_range(options: dict) -> None:
    with pytest.raises(ValueError, match="Received: seconds="):
        checkpoints.CheckpointPolicy(**options)


def test_default_policy() -> None:
    assert checkpoints.CheckpointPolicy() == checkpoints.CheckpointPolicy(seconds=300.0, steps=0, keep=2)


FULL = (
    f"FACTS = {FACTS}"
    + """
import pathlib, resource, sys
import numpy as np
from agegender.training import checkpoints
folder = pathlib.Path(sys.argv[1])
checkpoints.write_checkpoint(folder, 1, [np.zeros(10)], FACTS | {"step": 1})
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    checkpoints.write_checkpoint(folder, 2, [np.zeros(100_000)], FACTS | {"step": 2})
except OSError as error:
    print(error.strerror)
print(checkpoints.load_newest_checkpoint(folder).path.name)
"""
)


def test_full_disk_keeps_the_checkpoint_before(tmp_path: pathlib.Path) -> None:
    out, errors = python(FULL, tmp_path).communicate(timeout=120)
    assert out.splitlines() == ["File too large", "step-00000001.npz"], errors
    assert names(tmp_path) == ["step-00000001.npz"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 50_000


WRITE_ON = (
    f"FACTS = {FACTS}"
    + """
import pathlib, sys
import numpy as np
from agegender.training import checkpoints
folder, step = pathlib.Path(sys.argv[1]), 0
while True:
    step += 1
    checkpoints.write_checkpoint(folder, step, [np.full(300_000, step)] * 3, FACTS | {"step": step})
    print(step, flush=True)
"""
)


def test_newest_checkpoint_is_intact_after_kill_while_writing(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    for attempt in range(5):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        writer = python(WRITE_ON, folder)
        assert writer.stdout
        writer.stdout.readline()
        time.sleep(random.Random(attempt).uniform(0, 0.2))
        writer.kill()
        written = writer.communicate()[0].split()
        found = checkpoints.load_newest_checkpoint(folder)
        assert found and found.facts["step"] >= max(map(int, written), default=1)
        assert found.arrays[2][0] == found.facts["step"]
        files.remove_leftovers(folder)
        assert all(name.startswith("step-") for name in names(folder)) and len(names(folder)) <= 3
    assert capsys.readouterr().err == "", "nothing cut short has the name of a checkpoint"


# ---- the lock, signals, errors


LOCK = """
import pathlib, sys, time
from agegender.training.signals import lock_workdir
with lock_workdir(pathlib.Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(600)
"""


def test_lock_names_its_process_and_ends_with_it(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "run" / "checkpoints"
    holder = python(LOCK, folder)
    assert holder.stdout and holder.stdout.readline() == "locked\n"
    with (
        pytest.raises(BlockingIOError, match=f"Process {holder.pid} is training in {folder.parent}"),
        signals.lock_workdir(folder),
    ):
        pass
    holder.kill()
    holder.communicate()
    with signals.lock_workdir(folder):
        assert (folder / "lock").read_text() == f"{os.getpid()}\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_has_its_default_effect(number: signal.Signals, capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.signal(number, signal.default_int_handler)  # SIGTERM would end this process
    try:
        with pytest.raises(KeyboardInterrupt), signals.StopSignals() as stop:
            os.kill(os.getpid(), number)
            assert stop.received == number.name
            assert f"{number.name}: stopping after this step" in capfd.readouterr().err
            os.kill(os.getpid(), number)
            time.sleep(5)
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)


def test_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with signals.StopSignals() as stop:
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.received is None and signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_signals_are_not_recorded_in_other_threads() -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []

    def look() -> None:
        with signals.StopSignals() as stop:
            seen.append((stop.received, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [(None, before)]


def test_stopped_exits_with_75() -> None:
    done = python("from agegender.training.signals import Stopped; raise Stopped('words')")
    assert done.communicate() == ("", "") and done.returncode == 75


# ---- the record


def test_times_are_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC-9")
    time.tzset()
    try:
        now = datetime.datetime.fromisoformat(run_record.format_utc_now())
        assert now.utcoffset() == datetime.timedelta(0)
        assert abs(datetime.datetime.now(datetime.UTC) - now) < datetime.timedelta(minutes=1)
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()


RECORD: dict[str, Any] = {
    "started": "then",
    "command": ["train", "--x"],
    "code": {"commit": "0123456789abcdef", "dirty": True},
    "versions": {"keras": "3", "numpy": "2"},
    "backend": "jax",
    "dtype_policy": "float32",
    "devices": ["cpu:0"],
    "config": {"epochs": 3, "data": {"cache": None}, "note": 99 * "x"},
    "seconds": {"epochs": [30.0, 50.0], "set_up": 7.0},
    "resumed": [{"at": "later", "step": 7}, {"at": "last", "step": 9}],
}
WORDS = f"""\
started     then
finished    not yet; epochs done: 2; last checkpoint at step 120
command     train --x
code        commit 0123456789ab, with uncommitted changes
versions    keras 3, numpy 2
computed    jax, float32, cpu:0
config      epochs=3, data.cache=None, note={57 * "x"}...
set-up      7.0 s
training    1 min 20 s, 40.0 s an epoch
evaluation  4.3 s
resumed     from step 7 at later, from step 9 at last"""


def test_describe_run(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"There is no run\.json"):
        run_record.describe_run(tmp_path)
    run_record.write_record(tmp_path, RECORD)
    run_record.record_seconds(tmp_path, "evaluation", 4.256)
    assert run_record.read_record(tmp_path)["seconds"] == {**RECORD["seconds"], "evaluation": 4.26}
    (tmp_path / "checkpoints").mkdir()
    for name in ("step-00000040.npz", "step-00000120.npz", "step-00000007.npz", "step-copy.npz"):
        (tmp_path / "checkpoints" / name).touch()
    assert run_record.describe_run(tmp_path) == run_record.describe_run(tmp_path / "run.json") == WORDS
    run_record.record_seconds(tmp_path, "epochs", [1.006, 2.0])
    run_record.mark_finished(tmp_path)
    record = run_record.read_record(tmp_path)
    assert record["seconds"]["epochs"] == [1.01, 2.0]
    assert f"finished    {record['finished']}\n" in run_record.describe_run(tmp_path)
    (tmp_path / "run.json").write_text('{"started": "then"}')
    shutil.rmtree(tmp_path / "checkpoints")
    assert run_record.describe_run(tmp_path) == "started     then\nfinished    not yet; epochs done: 0"


def test_versions_are_those_of_the_installed_packages() -> None:
    found = run_record.list_versions()
    assert found.pop("python") == platform.python_version()
    assert {"keras", "tensorflow", "jax", "tensorflow-datasets", "keras-vggface", "numpy"} <= set(found)
    assert found == {name: importlib.metadata.version(name) for name in found}


def test_git_state_of_a_clone(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_record, "_ROOT", tmp_path)
    assert run_record.read_git_state() is None
    git = ["git", "-c", "user.name=n", "-c", "user.email=e@example.org", "-C", str(tmp_path)]
    (tmp_path / "a").write_text("1")
    for arguments in (["init", "--quiet"], ["add", "a"], ["commit", "--quiet", "--message=m"]):
        subprocess.run([*git, *arguments], check=True)
    state = run_record.read_git_state()
    assert state and len(state["commit"]) == 40 and state["dirty"] is False
    (tmp_path / "a").write_text("2")
    assert (run_record.read_git_state() or {})["dirty"] is True
    (tmp_path / "a").write_text("1")
    (tmp_path / "b").write_text("not of the commit, and not in the way of it")
    assert (run_record.read_git_state() or {})["dirty"] is False
    monkeypatch.setattr(run_record, "_ROOT", tmp_path / "inside")
    (tmp_path / "inside").mkdir()
    assert run_record.read_git_state() is None, "a package inside somebody else's clone"
