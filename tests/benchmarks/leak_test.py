"""The benchmark of the leak: on hand-made data sets with planted twins, and on faces from the real builder."""

import io
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_utkface import prepare

ROOT = pathlib.Path(__file__).parents[2]
BUILT = ("train/validation/test", "five folds")
RANDOM = "leaky_random_80_20"
QUICK = ("--rounds=1", "--epochs=1", "--widths=8,8", "--image_size=24", "--batch_size=32", "--resamples=50")


def run(data_dir: pathlib.Path, *arguments: str) -> tuple[subprocess.CompletedProcess, Mapping[str, Any]]:
    out = data_dir / "leak.json"
    command = [sys.executable, "-m", "benchmarks.leak", f"--data_dir={data_dir}", f"--out={out}"]
    done = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300)
    return done, json.loads(out.read_text()) if out.exists() else {}


def face(seed: int, *, mirrored: bool = False, light: float = 1.0) -> bytes:
    """A image of a few large spots, which no other seed resembles."""
    spots = Image.fromarray(np.random.default_rng(seed).integers(40, 216, (4, 4, 3), np.uint8))
    pixels = np.asarray(spots.resize((32, 32), Image.Resampling.BILINEAR)) * light
    pixels = pixels[:, ::-1] if mirrored else pixels
    Image.fromarray(pixels.astype(np.uint8)).save(file := io.BytesIO(), format="JPEG", quality=95)
    return file.getvalue()


def rows(seeds: Sequence[int], **labels: Any) -> list[dict[str, Any]]:
    return [{"image": face(seed), **labels} for seed in seeds]


def test_twins_planted_across_the_splits_are_reported_and_unlike_images_are_not(tmp_path: pathlib.Path) -> None:
    planted = [{"image": face(3)}, {"image": face(5, mirrored=True, light=0.7)}]
    data = prepare(tmp_path, {"train": rows(range(8)), "validation": rows([8]), "test": [*planted, *rows([9])]})
    done, report = run(data)
    assert done.returncode == 1 and "LEAK" in done.stdout, done.stderr[-3000:]
    splits, folds = (report["leak"]["0.99"][name] for name in BUILT)
    assert (splits["pairs"], splits["between"], splits["held_out"], splits["share"]) == (2, 2, 4, 0.5)
    assert folds["between"] == 0
    assert [report["balance"][split]["images"] for split in ("train", "validation", "test", "all")] == [8, 1, 3, 12]


def test_a_twin_planted_across_the_folds_is_reported(tmp_path: pathlib.Path) -> None:
    data = prepare(tmp_path, {"train": [*rows(range(4), fold=0), *rows([3, 4], fold=1)]})
    done, report = run(data)
    assert done.returncode == 1, done.stderr[-3000:]
    splits, folds = (report["leak"]["0.99"][name] for name in BUILT)
    assert (splits["between"], folds["pairs"], folds["between"]) == (0, 1, 1)
    assert folds["share"] == pytest.approx((1 / 4 + 1 / 2) / 2)


def photographs(count: int, copies: int) -> list[dict[str, Any]]:
    """Rows of photographs whose ages cannot be seen, each with a group and a fold of its own."""
    ages = np.random.default_rng(7).permutation(np.linspace(10, 90, count)).astype(int)
    return [
        {"image": face(n), "age": int(age), "group": f"group {n}", "fold": n % 5, "file_name": f"{n} {copy}"}
        for copy in range(copies)
        for n, age in enumerate(ages)
    ]


def test_where_all_have_a_twin_a_random_split_parts_four_fifths_of_the_held_out(tmp_path: pathlib.Path) -> None:
    done, report = run(prepare(tmp_path, {"train": photographs(40, 2)}), "--seeds=40")
    assert done.returncode == 0, done.stderr[-3000:]
    leak = report["leak"]["0.99"]
    assert [leak[name]["between"] for name in BUILT] == [0, 0]
    assert leak[RANDOM]["pairs"] == 40 and leak[RANDOM]["held_out"] == 16
    assert leak[RANDOM]["share"] == pytest.approx(64 / 79, abs=0.05)  # of 79 others, one is the twin, 64 are trained on


def test_what_a_model_learned_by_heart_flatters_it_on_the_leaky_split(tmp_path: pathlib.Path) -> None:
    settings = ("--image_size=32", "--widths=32,64", "--batch_size=4", "--epochs=10", "--learning_rate=0.005")
    data = prepare(tmp_path, {"train": photographs(8, 8)})
    done, report = run(data, "--train", "--rounds=1", "--resamples=50", *settings)
    assert done.returncode == 0, done.stderr[-3000:]
    age = report["cost"]["age"]
    assert age["a twin in training"][RANDOM] < 12 and age["a twin in training"]["difference"] < -8, done.stdout
    assert age["all"] == {**age["a twin in training"], **age["all"]} and age["all"]["images"] == 13
    assert "- of other ages only" not in age


def test_both_parts_run_on_what_the_real_builder_made(prepared: pathlib.Path) -> None:
    done, report = run(prepared, "--train", "--thresholds=0.99,0.98", *QUICK)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert set(report["leak"]) == {"0.99", "0.98"}
    assert report["balance"]["all"]["images"] == 240
    assert [row["split"] for row in report["cost"]["rounds"]] == [RANDOM, "grouped_80_20"]
    assert report["cost"]["gender"]["all"]["images"] == 48
    assert "age MAE, years" in done.stdout and "gender errors, %" in done.stdout


def test_data_of_an_older_builder_or_none_are_named(tmp_path: pathlib.Path) -> None:
    data = prepare(tmp_path / "old", {"train": rows([1])}, without=["fold", "group"])
    for folder, words in ((data, "['fold', 'group']"), (tmp_path / "none", "tfds build utkface")):
        folder.mkdir(exist_ok=True)
        done, _ = run(folder)
        assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr


def test_help_teaches_and_wrong_flags_are_named() -> None:
    command = [sys.executable, "-m", "benchmarks.leak"]
    words = subprocess.run([*command, "--help"], cwd=ROOT, capture_output=True, text=True).stdout
    assert "python -m benchmarks.leak" in words and "--thresholds" in words and "--rounds" in words
    for wrong in ("--thresholds=0.99,x", "--thresholds=1.5", "--widths=0", "--rounds=6", "--learning_rate=0"):
        done = subprocess.run([*command, wrong], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode != 0 and wrong.split("=")[0] in done.stdout + done.stderr


def python(code: str) -> Any:
    """What code prints last, as JSON: in a process of its own, for two scripts with a flag of one name cannot meet."""
    start = "import json, numpy as np\nfrom benchmarks import leak\n"
    environ = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run([sys.executable, "-c", start + code], cwd=ROOT, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_share_of_a_split_is_that_of_the_held_out_images_with_a_twin_in_training() -> None:
    code = """
labels = {"split": np.array([0, 1, 0, 0, 2, 2]), "fold": np.array([0, 0, 1, 1, 2, 2])}
pairs = np.array([[0, 1], [2, 3], [4, 5]])
print(json.dumps(leak.measure_leak(pairs, labels, 1)))
"""
    measured = python(code)
    assert measured[BUILT[0]] == {"pairs": 3, "between": 1, "held_out": 3, "share": pytest.approx(1 / 3)}
    assert measured[BUILT[1]] == {"pairs": 3, "between": 0, "held_out": 2, "share": 0}


def test_fifths_are_fifths_and_groups_stay_whole() -> None:
    code = """
groups = np.array([f"group {n // 3}" for n in range(300)])
leaky, grouped = leak.leaky_fifths(300, 1), leak.grouped_fifths(groups, 1)
whole = all(len(set(grouped[groups == group])) == 1 for group in set(groups))
same = bool((grouped == leak.grouped_fifths(groups, 1)).all()), bool((grouped == leak.grouped_fifths(groups, 2)).all())
print(json.dumps([np.bincount(leaky).tolist(), np.bincount(grouped).tolist(), whole, same]))
"""
    assert python(code) == [[60] * 5, [60] * 5, True, [True, False]]


def test_images_are_sorted_by_what_a_leaky_split_shows_of_them() -> None:
    code = """
labels = {"age": np.array([30, 30, 30, 31, 40, 40, 50, 50]), "group": np.array(list("aabbccde"))}
pairs, fifths = np.array([[0, 1], [2, 3], [6, 7]]), np.array([0, 1, 0, 1, 0, 1, 2, 2])
kinds = leak.kinds_of_images(pairs, labels, fifths)
print(json.dumps({name: np.flatnonzero(kind).tolist() for name, kind in kinds.items()}))
"""
    assert python(code) == {
        "all": [0, 1, 2, 3, 4, 5, 6, 7],
        "a twin in training": [0, 1, 2, 3],
        "- of the same age": [0, 1],
        "- of other ages only": [2, 3],
        "no twin in training": [4, 5, 6, 7],
        "- but one of the group": [4, 5],
        "- and none of the group": [6, 7],
    }


def test_the_comparison_is_of_means_over_what_was_held_out_with_intervals_that_know_noise() -> None:
    code = """
nan, count = float("nan"), 400
noise = np.random.default_rng(0).normal(0, 1, (2, count))
twin = np.arange(count) < 100
errors = {leak.GROUPED: 8 + noise[0], leak.LEAKY: 8 - 2 * twin + noise[1]}
kinds = {"all": np.ones(count, bool), "a twin in training": twin, "no twin in training": ~twin, "nobody": twin & ~twin}
some = leak.compare(errors, kinds, np.arange(count), 500)
errors = {leak.GROUPED: np.array([8.0, 6.0, nan]), leak.LEAKY: np.array([nan, 5.0, 1.0])}
few = leak.compare(errors, {"all": np.ones(3, bool)}, np.arange(3), 10)
print(json.dumps([some, few]))
"""
    some, few = python(code)
    assert set(some) == {"all", "a twin in training", "no twin in training", "through the twins"}
    assert some["a twin in training"]["difference"] == pytest.approx(-2, abs=0.4)
    assert some["through the twins"]["difference"] == pytest.approx(some["a twin in training"]["difference"] / 4)
    assert some["through the twins"]["interval"][1] < 0
    low, high = some["no twin in training"]["interval"]
    assert low < 0 < high and high - low == pytest.approx(2 * 1.96 * (2 / 300) ** 0.5, rel=0.2)
    assert (few["all"]["images"], few["all"][RANDOM], few["all"]["grouped_80_20"]) == (2, 3, 7)
