"""Differences between models on the same photographs."""

import pathlib

import pytest

from experiments.compare_photographs import compare

HEADER = "file,faces,predicted_age,p_female,gender,age_band\n"


def write(folder: pathlib.Path, name: str, *rows: str) -> str:
    (folder / name).write_text(HEADER + "\n".join(rows) + "\n")
    return str(folder / name)


def test_differences_by_hand(tmp_path: pathlib.Path) -> None:
    # Distances: 1.5 and 0; then 0 and 4. Genders: right, wrong; then right, right. The third has no face.
    first = write(tmp_path, "1.csv", "a,1,28,0.9,1,30-39", "b,1,69,0.6,0,70+", "c,0,nan,nan,1,0-2")
    second = write(tmp_path, "2.csv", "a,1,30,0.8,1,30-39", "b,1,65.5,0.4,0,70+", "c,0,nan,nan,1,0-2")
    header, _, one, two = compare([first, second]).splitlines()
    assert header == "| | gender_accuracy | inside | distance | bias | mean_age |"
    assert one == f"| {first} | 0.500 | 0.000 | 1.000 | -1.000 | 48.500 |"
    cells = two.split(" | ")
    assert cells[1].startswith("1.000, +0.500 (+0.000 to +1.000)") and cells[3].startswith(
        "2.000, +1.000 (-1.500 to +3.500)"
    )
    assert cells[4].startswith("-2.000, -1.000 (-3.500 to +1.500)")


def test_a_model_does_not_differ_from_itself(tmp_path: pathlib.Path) -> None:
    one = write(tmp_path, "1.csv", *(f"{i},1,{i},0.4,{i % 2},10-19" for i in range(30)))
    assert compare([one, one]).count("+0.000 |") == 5


def test_other_photographs_are_refused(tmp_path: pathlib.Path) -> None:
    one, two = (write(tmp_path, f"{name}.csv", f"{name},1,28,0.9,1,30-39") for name in "ab")
    with pytest.raises(ValueError, match=r"same photographs and labels. Received: .*a\.csv and .*b\.csv"):
        compare([one, two])
    (tmp_path / "labels.csv").write_text("file,gender\na,male\n")
    with pytest.raises(ValueError, match=r"labels\.csv must be a predictions\.csv"):
        compare([str(tmp_path / "labels.csv"), one])
