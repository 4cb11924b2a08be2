"""Several devices and several processes, against one."""

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
_STARTED: list[subprocess.Popen] = []


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    while _STARTED:
        process = _STARTED.pop()
        process.kill()
        process.communicate()


def start(backend: str, data: pathlib.Path, workdir: pathlib.Path, **told: Any) -> subprocess.Popen:
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, str(ROOT / "tests" / "together.py")]
    command.append(json.dumps({"data": str(data), "workdir": str(workdir), **told}))
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    _STARTED.append(subprocess.Popen(command, env=environment, **pipes))
    return _STARTED[-1]


def end(process: subprocess.Popen, status: int = 0) -> str:
    output, errors = process.communicate(timeout=180)
    assert process.returncode == status, errors
    return errors if status else output


def numbers(output: str) -> dict[str, Any]:
    return json.loads(output.splitlines()[-1])


def start_two(data: pathlib.Path, workdir: pathlib.Path, *each: dict[str, Any]) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    told = each or ({}, {})
    return [start("jax", data, workdir, join=(address, 2, k), **told[k]) for k in range(2)]


def assert_same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    np.testing.assert_allclose(ours["losses"], theirs["losses"], rtol=2e-5)
    for here, there in zip(ours["epochs"], theirs["epochs"], strict=True):
        assert set(here) == set(there)
        np.testing.assert_allclose([here[name] for name in there], list(there.values()), rtol=2e-5, err_msg=str(there))


@pytest.fixture(scope="module")
def alone(prepared: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one device answers, on each backend."""
    folder = tmp_path_factory.mktemp("alone")
    processes = {backend: start(backend, prepared, folder / backend) for backend in ("tensorflow", "jax")}
    return {backend: numbers(end(process)) for backend, process in processes.items()}


def test_two_mirrored_devices_have_the_losses_of_one(
    prepared: pathlib.Path, tmp_path: pathlib.Path, alone: dict[str, Any]
) -> None:
    ours = numbers(end(start("tensorflow", prepared, tmp_path / "run", devices=2)))
    assert_same(ours, alone["tensorflow"])


def test_two_processes_have_the_losses_of_one(
    prepared: pathlib.Path, tmp_path: pathlib.Path, alone: dict[str, Any]
) -> None:
    first, second = start_two(prepared, tmp_path / "run")
    end(second)
    assert_same(numbers(end(first)), alone["jax"])
    assert {"best.keras", "metrics.csv", "run.json"} <= {path.name for path in (tmp_path / "run").iterdir()}


@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_process_ends_the_other_with_a_clear_line_and_one_alone_goes_on(
    prepared: pathlib.Path, tmp_path: pathlib.Path, alone: dict[str, Any], lost: int
) -> None:
    each: list[dict[str, Any]] = [{}, {}]
    each[lost] = {"ends": {"after": 5, "signal": signal.SIGKILL}}
    processes = start_two(prepared, tmp_path / "run", *each)
    end(processes[lost], -signal.SIGKILL)
    words = end(processes[1 - lost], 1)
    assert "ExplainedError: Another process of the run was lost" in words
    rest = numbers(end(start("jax", prepared, tmp_path / "run")))
    np.testing.assert_allclose(rest["losses"], alone["jax"]["losses"][-len(rest["losses"]) :], rtol=2e-5)
    assert 7 <= len(rest["losses"]) <= 8  # from the checkpoint of step 4, or of 5 if that was written


def test_a_signal_to_one_process_stops_all_of_them_after_the_same_step(
    prepared: pathlib.Path, tmp_path: pathlib.Path, alone: dict[str, Any]
) -> None:
    first, second = start_two(prepared, tmp_path / "run", {}, {"ends": {"after": 3, "signal": signal.SIGTERM}})
    assert "SIGTERM: stopped after step 3" in end(first, 75) and "SIGTERM: stopped after step 3" in end(second, 75)
    first, second = start_two(prepared, tmp_path / "run")
    end(second)
    rest = numbers(end(first))
    np.testing.assert_allclose(rest["losses"], alone["jax"]["losses"][3:], rtol=2e-5)


def test_processes_that_were_told_different_things_all_say_so(prepared: pathlib.Path, tmp_path: pathlib.Path) -> None:
    first, second = start_two(prepared, tmp_path / "run", {}, {"learning_rate": 2e-3})
    assert "with the same settings. In process 0: optimizer" in end(second, 1)
    assert "lost" in end(first, 1)


def test_what_process_0_finds_wrong_all_say(prepared: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "best.keras").touch()
    first, second = start_two(prepared, tmp_path / "run")
    assert "FileExistsError" in end(first, 1)
    assert "Process 0 failed. FileExistsError" in end(second, 1)


@pytest.mark.parametrize(
    "told",
    [
        *(("127.0.0.1", 2, 0), ("127.0.0.1:x", 2, 0), ("127.0.0.1:65536", 2, 0)),
        *(("127.0.0.1:1", 1, 0), ("127.0.0.1:1", 2, 2), ("127.0.0.1:1", 2, -1)),
    ],
)
def test_processes_that_cannot_be_are_refused(monkeypatch: pytest.MonkeyPatch, told: tuple[str, int, int]) -> None:
    monkeypatch.setattr("keras.backend.backend", lambda: "jax")
    with pytest.raises(ValueError, match="`coordinator` must be HOST:PORT"):
        processes.join_processes(*told)


def test_several_processes_on_another_backend_are_refused() -> None:
    if keras.backend.backend() != "jax":
        with pytest.raises(ValueError, match="KERAS_BACKEND=jax"):
            processes.join_processes("127.0.0.1:1", 2, 0)


def test_one_process_alone_is_the_chief_and_tells_itself() -> None:
    assert processes.is_chief() and processes.current_shard() == (0, 1) and processes.device_count() == 1
    assert processes.broadcast_from_chief(lambda: b"x") == b"x" and processes.all_reduce_max(15) == 15


def test_batches_that_replicas_cannot_share_are_refused(prepared: pathlib.Path, tmp_path: pathlib.Path) -> None:
    words = end(start("tensorflow", prepared, tmp_path / "run", devices=2, batch_size=15), 1)
    assert "divisible by the number of devices, 2" in words
