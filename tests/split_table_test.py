"""The table of file name to split, against data that the real builder made, and the measure of near-duplicates."""

import pathlib
import subprocess
import sys

from experiments import split_table

ROOT = pathlib.Path(__file__).parent.parent


def test_a_table_made_of_what_was_built_agrees_with_it(prepared: pathlib.Path) -> None:
    table = split_table.rows([str(prepared)])
    assert len(table) == 240
    assert all(row["split"] == split_table.splits.split_of(row["group"]) for row in table)
    assert split_table.differences(table, [str(prepared)]) == []


def test_a_group_that_differs_and_a_picture_that_the_table_lacks_are_told(prepared: pathlib.Path) -> None:
    table = split_table.rows([str(prepared)])
    lost = table.pop()
    table[0]["group"] = "another"
    told = split_table.differences(table, [str(prepared)])
    assert len(told) == 2
    assert any(line.startswith(lost["file_name"]) and line.endswith("the table says nothing") for line in told)


def test_a_check_against_other_pictures_ends_with_an_error(prepared: pathlib.Path) -> None:
    command = [sys.executable, "-m", "experiments.split_table", f"--data_dir={prepared}", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "the table says nothing" in done.stdout


def test_the_measure_is_shown_for_a_folder_of_pictures(tmp_path: pathlib.Path) -> None:
    from agegender import write_faces

    write_faces(tmp_path / "UTKFace", 40, size=64, seed=1)
    command = [sys.executable, "-m", "experiments.near_duplicates", f"--manual_dir={tmp_path}", "--sample=20"]
    done = subprocess.run([*command, f"--plot={tmp_path / 'plot.png'}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "mirrored                                  100.0%" in done.stdout
    assert "40 pictures" in done.stdout and (tmp_path / "plot.png").stat().st_size > 10_000
