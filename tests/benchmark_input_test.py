"""The benchmarks of the input pipeline and of fine-tuning run, and say what they compare."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("name", "options", "claims"),
    [
        ("first_epoch", ("--batch_size=8",), 3),
        ("cached_epochs", ("--batch_size=8",), 2),
        ("growth", ("--batch_size=4",), 4),
        ("fine_tuning", ("--image_size=48", "--batch_size=2", "--times=2"), 2),
    ],
)
def test_a_benchmark_ends_with_a_table_and_its_ratios(
    name: str, options: tuple[str, ...], claims: int, prepared: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    out = tmp_path / "out.json"
    command = [sys.executable, "-m", f"experiments.benchmarks.{name}", f"--data_dir={prepared}", f"--out={out}"]
    environ = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [*command, "--rounds=1", *options], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(out.read_text())
    assert len(found["claims"]) == claims and all(claim["median"] > 0 for claim in found["claims"])
    assert found["title"] in done.stdout
