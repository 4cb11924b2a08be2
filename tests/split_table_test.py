"""The table of file name to split, made of what the real builder built, and the measure of near-duplicates."""

import csv
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent


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


def test_the_measure_is_shown_for_a_folder_of_pictures(tmp_path: pathlib.Path) -> None:
    from agegender import write_faces

    write_faces(tmp_path / "UTKFace", 40, size=64, seed=1)
    plot = tmp_path / "plot.png"
    code, told = run("near_duplicates", f"--manual_dir={tmp_path}", "--sample=20", f"--plot={plot}")
    assert code == 0, told
    assert "mirrored                                  100.0%" in told
    assert "40 pictures" in told and plot.stat().st_size > 10_000
