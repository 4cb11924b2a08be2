"""The benchmarks of the augmentation and of the notebook's generator, run as a user runs them, on tiny faces."""

import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent


def benchmark(name: str, prepared: pathlib.Path, out: pathlib.Path, *arguments: str) -> dict:
    command = [sys.executable, "-m", f"experiments.benchmarks.{name}", f"--data_dir={prepared}", f"--out={out}"]
    command += ["--rounds=2", "--batch_size=8", "--image_size=24", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(out.read_text())


def test_the_augmentation_is_timed_against_the_fastest_way_to_run_the_layers(
    prepared: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    result = benchmark("augmentation", prepared, tmp_path / "out.json")
    median = {row["what"]: row["ms a picture"] for row in result["rows"]}
    assert min(median.values()) > 0 and {"Augmentation on JAX", "one op"} < set(median)
    best = min((name for name in median if name.startswith("five layers")), key=lambda name: median[name])
    marked = [claim for claim in result["claims"] if claim["at_least"]]
    assert [claim["what"] for claim in marked] == [f"{best} / Augmentation, geometry", f"{best} / Augmentation"]


def test_the_generator_of_the_notebook_is_timed_against_ours(prepared: pathlib.Path, tmp_path: pathlib.Path) -> None:
    arguments = ("--pictures=16", "--times=2", "--image_size=16")  # not the size that is stored
    result = benchmark("generator", prepared, tmp_path / "out.json", *arguments)
    median = {row["what"]: row["ms a picture"] for row in result["rows"]}
    assert len(median) == 5 and min(median.values()) > 0
    [bytes_claim, pixels_claim] = [claim for claim in result["claims"] if claim["at_least"]]
    assert bytes_claim["what"] == "notebook, one thread / ours, cache of bytes"
    assert pixels_claim["what"] == "notebook, one thread / ours, cache of pixels"
    assert len(result["claims"]) == 4 and "of 16 px" in result["title"]
