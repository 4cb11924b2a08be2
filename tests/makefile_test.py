"""The messages of `make`; CI runs its targets."""

import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parent.parent


def make(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("arguments", [(), ("help",)])
def test_help_lists_targets_and_variables(arguments: tuple[str, ...]) -> None:
    words = make(*arguments).stdout
    for word in (
        "make train",
        "make bench",
        "make test",
        "make test-all",
        "UTKFACE=",
        "CONFIG=",
        "WORKDIR=",
        "PYTHON=",
        "joint",
        "synthetic",
    ):
        assert word in words


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("UTKFACE=/a folder", "no path with a blank"),
        ("CONFIG=nothing", "no config experiments/configs/nothing.py"),
        ("UTKFACE=/nowhere", "UTKFACE=/nowhere does not exist"),
        ("UTKFACE=", "UTKFACE is empty"),
    ],
)
def test_wrong_argument_fails_before_anything_is_made(argument: str, words: str) -> None:
    done = make("train", argument)
    assert done.returncode != 0 and words in done.stderr
    assert "pip" not in done.stdout


def test_unsupported_python_is_named(tmp_path: pathlib.Path) -> None:
    old = tmp_path / "python"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.8.0"\nexit 1\n')
    old.chmod(0o755)
    done = make("test", f"PYTHON={old}", f"BIN={tmp_path}/none/bin")
    assert done.returncode != 0 and "Python 3.11, 3.12 or 3.13 is needed" in done.stderr and "3.8.0" in done.stderr
