"""The table of splits, made from prepared data, and the measures of the near-duplicate search."""

import csv
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from tiny_utkface import prepare

from experiments import near_duplicates
from experiments.split_table import build_table, find_differences, write_table

ROOT = pathlib.Path(__file__).parents[2]


def test_check_detects_changed_and_missing_rows(prepared: pathlib.Path, tmp_path: pathlib.Path) -> None:
    table = build_table([str(prepared)])
    assert len(table) == 240 and find_differences(table, [str(prepared)]) == []
    write_table(tmp_path / "splits.csv", table)
    with (tmp_path / "splits.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == table
    lost = table.pop()
    table[0] = table[0] | {"group": "another"}
    changed, missing = sorted(find_differences(table, [str(prepared)]), key=lambda words: "nothing" in words)
    assert changed.startswith(f"{table[0]['file_name']}: ") and changed.endswith("the table says another")
    assert missing == f"{lost['file_name']}: built into {lost['group']}, the table says nothing"


def test_images_that_match_in_any_form_share_a_group(tmp_path: pathlib.Path) -> None:
    one, two, three, four = (f"{age}_0_0_1.jpg.chip.jpg" for age in (10, 20, 30, 40))
    forms = {
        "first": {one: "10_0_0_1", two: "10_0_0_1", three: "30_0_0_1", four: "40_0_0_1"},
        "second": {two: "20_0_0_1", three: "20_0_0_1"},
    }
    for form, groups in forms.items():
        rows = [{"file_name": name, "group": group} for name, group in groups.items()]
        prepare(tmp_path / form, {"train": rows[:1], "test": rows[1:]})
    table = build_table([str(tmp_path / form) for form in forms])
    expected = {**dict.fromkeys((one, two, three), "10_0_0_1"), four: "40_0_0_1"}
    assert {row["file_name"]: row["group"] for row in table} == expected
    assert len({(row["split"], row["fold"]) for row in table[:3]}) == 1


def draw_images(count: int) -> list[Image.Image]:
    random = np.random.default_rng(0)
    coarse = [Image.fromarray(random.integers(0, 256, (6, 6, 3), np.uint8)) for _ in range(count)]
    return [image.resize((64, 64), Image.Resampling.BICUBIC) for image in coarse]


def test_altered_copies_are_found_and_other_images_are_not() -> None:
    images = draw_images(12)
    originals = near_duplicates.make_thumbnails(images)
    copies = near_duplicates.make_thumbnails(images, near_duplicates.ALTERATIONS["mirrored"])
    assert near_duplicates.compute_share_found(originals, copies) == 1
    assert near_duplicates.compute_share_found(originals, np.roll(copies, 1, axis=0)) == 0
    pairs = np.stack([np.arange(12), np.arange(12) + 12], 1)
    both = np.concatenate([originals, copies])
    mirrored = near_duplicates.compute_correlations(both, pairs, np.ones(12, bool))
    assert mirrored == pytest.approx(1, abs=0.01) and mirrored.shape == (12, 2)
    assert near_duplicates.compute_correlations(both, pairs, np.zeros(12, bool)).max() < 0.9


@pytest.mark.slow
def test_scripts_print_and_plot(prepared: pathlib.Path, tmp_path: pathlib.Path) -> None:
    from agegender import write_faces

    def run(script: str, *arguments: str) -> tuple[int, str]:
        words = [sys.executable, "-m", f"experiments.{script}", *arguments]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
        return done.returncode, done.stdout

    arguments = [f"--data_dir={prepared}", f"--table={tmp_path / 'splits.csv'}"]
    assert run("split_table", *arguments)[0] == 0
    assert run("split_table", *arguments, "--check") == (0, "The table agrees with the prepared data set.\n")
    write_faces(tmp_path / "UTKFace", 40, size=64, seed=1)
    code, words = run("near_duplicates", f"--manual_dir={tmp_path}", "--sample=20", f"--plot={tmp_path / 'plot.png'}")
    assert code == 0 and "mirrored                                  100.0%" in words and "40 images" in words
    assert (tmp_path / "plot.png").stat().st_size > 10_000
