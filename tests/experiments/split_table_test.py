"""The table of file name to split, made of what the real builder built, and the measure of near-duplicates."""

import csv
import pathlib
import subprocess
import sys

from tiny_utkface import prepare

ROOT = pathlib.Path(__file__).parents[2]


def run(script: str, *arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-m", f"experiments.{script}", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return done.returncode, done.stdout + (done.stderr if done.returncode not in (0, 1) else "")


def test_a_table_agrees_with_what_it_was_made_of_until_a_row_is_changed_or_lost(
    prepared: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    arguments = [f"--data_dir={prepared}", f"--table={tmp_path / 'splits.csv'}"]
    assert run("split_table", *arguments)[0] == 0
    assert run("split_table", *arguments, "--check") == (0, "The table agrees with what was built.\n")
    with (tmp_path / "splits.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert len(rows) == 1 + 240 and rows[0] == ["file_name", "split", "fold", "group"]
    rows[1][3] = "another"
    lost = rows.pop()
    with (tmp_path / "splits.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    code, told = run("split_table", *arguments, "--check")
    assert code == 1 and len(told.splitlines()) == 2
    assert "the table says another" in told and f"{lost[0]}: built into {lost[3]}, the table says nothing" in told


def test_images_that_are_near_identical_in_any_form_share_a_group_of_the_table(tmp_path: pathlib.Path) -> None:
    one, two, three, alone = (f"{age}_0_0_1.jpg.chip.jpg" for age in (10, 20, 30, 40))
    forms = {
        "first": {one: "10_0_0_1", two: "10_0_0_1", three: "30_0_0_1", alone: "40_0_0_1"},
        "second": {two: "20_0_0_1", three: "20_0_0_1"},
    }
    for form, built in forms.items():
        rows = [{"file_name": name, "group": group} for name, group in built.items()]
        prepare(tmp_path / form, {"train": rows[:1], "test": rows[1:]})
    table = tmp_path / "splits.csv"
    arguments = [*(f"--data_dir={tmp_path / form}" for form in forms), f"--table={table}"]
    assert run("split_table", *arguments) == (0, f"4 images in 2 groups: {table}\n")
    with table.open(newline="") as file:
        found = {row["file_name"]: row for row in csv.DictReader(file)}
    assert {name: row["group"] for name, row in found.items()} == {
        **dict.fromkeys((one, two, three), "10_0_0_1"),
        alone: "40_0_0_1",
    }
    assert list(found) == sorted(found) and len({(row["split"], row["fold"]) for row in found.values()}) <= 2


def test_the_measure_is_shown_for_a_folder_of_images(tmp_path: pathlib.Path) -> None:
    from agegender import write_faces

    write_faces(tmp_path / "UTKFace", 40, size=64, seed=1)
    plot = tmp_path / "plot.png"
    code, told = run("near_duplicates", f"--manual_dir={tmp_path}", "--sample=20", f"--plot={plot}")
    assert code == 0, told
    assert "mirrored                                  100.0%" in told
    assert "40 images" in told and plot.stat().st_size > 10_000
