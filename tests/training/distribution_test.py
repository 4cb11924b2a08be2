"""Data-parallel training in several processes and on several devices."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest

from agegender.training import processes

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = pathlib.Path(__file__).with_name("distributed_program.py")
_STARTED: list[subprocess.Popen] = []


@pytest.fixture(autouse=True)
def kill_processes() -> Iterator[None]:
    yield
    while _STARTED:
        process = _STARTED.pop()
        process.kill()
        process.communicate()


def start(workdir: pathlib.Path, *, backend: str = "jax", **options: Any) -> subprocess.Popen:
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(PROGRAM), json.dumps({"workdir": str(workdir), **options})]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    _STARTED.append(subprocess.Popen(command, env=environment, **pipes))
    return _STARTED[-1]


def start_two(workdir: pathlib.Path, *each: dict[str, Any]) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    options = each or ({}, {})
    return [start(workdir, join=(address, 2, index), **options[index]) for index in range(2)]


def finish(process: subprocess.Popen, status: int = 0) -> str:
    """Waits for a process; returns its output, or its errors if it should fail."""
    output, errors = process.communicate(timeout=180)
    assert process.returncode == status, errors
    return errors if status else output


def read_results(output: str) -> dict[str, Any]:
    return json.loads(output.splitlines()[-1])


def assert_close(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    np.testing.assert_allclose(ours["losses"], theirs["losses"], rtol=2e-5)
    for here, there in zip(ours["epochs"], theirs["epochs"], strict=True):
        assert set(here) == set(there)
        np.testing.assert_allclose([here[name] for name in there], list(there.values()), rtol=2e-5, err_msg=str(there))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Results of one process."""
    return read_results(finish(start(tmp_path_factory.mktemp("alone") / "run")))


def test_two_processes_match_one(tmp_path: pathlib.Path, alone: dict[str, Any]) -> None:
    first, second = start_two(tmp_path / "run")
    finish(second)
    assert_close(read_results(finish(first)), alone)
    assert {"best.keras", "metrics.csv", "run.json"} <= {path.name for path in (tmp_path / "run").iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_lost_process_ends_the_other(tmp_path: pathlib.Path, alone: dict[str, Any], lost: int) -> None:
    each: list[dict[str, Any]] = [{}, {}]
    each[lost] = {"ends": {"after": 5, "signal": signal.SIGKILL}}
    both = start_two(tmp_path / "run", *each)
    finish(both[lost], -signal.SIGKILL)
    assert "The last checkpoint in" in finish(both[1 - lost], 1)
    rest = read_results(finish(start(tmp_path / "run")))
    np.testing.assert_allclose(rest["losses"], alone["losses"][-len(rest["losses"]) :], rtol=2e-5)
    assert 3 <= len(rest["losses"]) <= 4  # from the checkpoint of step 4, or of 5 if that was written


@pytest.mark.slow
def test_signal_to_one_process_stops_all_after_the_same_step(tmp_path: pathlib.Path, alone: dict[str, Any]) -> None:
    first, second = start_two(tmp_path / "run", {}, {"ends": {"after": 3, "signal": signal.SIGTERM}})
    for process in (first, second):
        assert "SIGTERM: stopped after step 3" in finish(process, 75)
    first, second = start_two(tmp_path / "run")
    finish(second)
    rest = read_results(finish(first))
    np.testing.assert_allclose(rest["losses"], alone["losses"][3:], rtol=2e-5)


@pytest.mark.slow
def test_processes_with_other_settings_are_refused(tmp_path: pathlib.Path) -> None:
    first, second = start_two(tmp_path / "run", {}, {"learning_rate": 2e-3})
    assert "with the same settings. In process 0: optimizer" in finish(second, 1)
    finish(first, 1)


@pytest.mark.slow
def test_errors_of_process_0_reach_the_others(tmp_path: pathlib.Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "best.keras").touch()
    first, second = start_two(tmp_path / "run")
    assert "FileExistsError" in finish(first, 1)
    assert "Process 0 failed. FileExistsError" in finish(second, 1)


@pytest.mark.slow
def test_mirrored_devices_train_with_the_semantics_of_keras(tmp_path: pathlib.Path) -> None:
    received = read_results(finish(start(tmp_path / "run", backend="tensorflow", devices=2)))
    assert len(received["epochs"]) == 2 and np.isfinite(received["losses"]).all()
    assert received["losses"][-1] < received["losses"][0]


@pytest.mark.parametrize(
    "arguments",
    [
        *(("127.0.0.1", 2, 0), ("127.0.0.1:x", 2, 0), ("127.0.0.1:65536", 2, 0)),
        *(("127.0.0.1:1", 1, 0), ("127.0.0.1:1", 2, 2), ("127.0.0.1:1", 2, -1)),
    ],
)
def test_arguments_of_join_out_of_range(monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, int, int]) -> None:
    monkeypatch.setattr("keras.backend.backend", lambda: "jax")
    with pytest.raises(ValueError, match="`coordinator` must be HOST:PORT"):
        processes.join_processes(*arguments)


def test_several_processes_need_jax() -> None:
    if keras.backend.backend() != "jax":
        with pytest.raises(ValueError, match="KERAS_BACKEND=jax"):
            processes.join_processes("127.0.0.1:1", 2, 0)


def test_single_process_is_the_chief() -> None:
    assert processes.is_chief() and processes.current_shard() == (0, 1) and processes.device_count() == 1
    assert processes.broadcast_from_chief(lambda: b"x") == b"x" and processes.all_reduce_max(15) == 15
