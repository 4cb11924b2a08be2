"""The script that draws the prepared data set."""

import io
import pathlib
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from tiny_utkface import prepare

from experiments.explore import draw_ages, draw_faces, draw_splits, explore

LABELS = {
    "age": np.array([10, 50, 30, 30, 30, 1, 2, 3]),
    "gender": np.array([0, 0, 1, 0, 1, 1, 1, 1]),
    "race": np.array([0, 1, 2, 3, 4, 0, 0, 0]),
    "fold": np.array([0, 0, 1, 1, 1, 2, 3, 4]),
    "file_name": np.array([f"{n}.jpg.chip.jpg".encode() for n in range(8)]),
    "age_conflict": np.array([True, True] + [False] * 6),
    "gender_conflict": np.array([False, False, True, True, True, False, False, False]),
    "split": np.array(["train"] * 6 + ["test"] * 2),
}


def test_plots_show_the_counts() -> None:
    (axes,) = draw_ages(LABELS).axes
    male, female = ([bar.get_height() for bar in bars] for bars in axes.containers)
    assert (male[30], female[30], male[50], sum(male), sum(female)) == (1, 2, 1, 3, 5)
    ages, shares = draw_splits(LABELS).axes
    train, test = ([bar.get_height() for bar in bars] for bars in shares.containers)
    assert train == pytest.approx([0.5, 2 / 6, 1 / 6, 1 / 6, 1 / 6, 1 / 6]) and test == [1, 1, 0, 0, 0, 0]
    assert [text.get_text() for text in ages.get_legend().get_texts()] == ["train", "test"]


def test_faces_stand_below_their_labels() -> None:
    images = [np.full((4, 4, 3), shade, "uint8") for shade in (9, 200)]
    first, second, *empty = draw_faces(images, LABELS, [2, 5]).axes
    assert (first.get_title(), second.get_title()) == ("30 female Asian\n2", "1 female White\n5")
    assert second.images[0].get_array().max() == 200 and len(empty) == 6 and not empty[0].images


def test_explore_draws_matching_faces(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[dict[str, Any]] = [
        {"age": 20 + n, "gender": n % 2, "race": n % 5, "group": "g", "age_conflict": n < 3} for n in range(12)
    ]
    for row in rows:  # as bright as old
        Image.new("L", (24, 24), 5 * row["age"]).save(file := io.BytesIO(), "JPEG")
        row["image"] = file.getvalue()
    prepare(tmp_path / "data", {"train": rows, "test": rows[:4]})
    out, data_dir = tmp_path / "look", str(tmp_path / "data")
    _, train, test, matched = explore(out, data_dir=data_dir, genders=["female"], faces=7).splitlines()
    assert train.split() == ["train", "12", "25.50", "50.0%", "3"]
    assert test.split() == ["test", "4", "21.50", "50.0%", "3"]
    assert matched.startswith("8 images match, 7 drawn")
    assert {path.name for path in out.iterdir()} == {"ages.png", "splits.png", "faces.png"}
    with Image.open(out / "faces.png") as image:
        assert image.size == (1200, 200)
    drawn: list[list[tuple[int, int]]] = []

    def draw(images: list[np.ndarray], labels: dict[str, np.ndarray], rows: list[int]) -> Figure:
        np.testing.assert_allclose([image.mean() / 5 for image in images], labels["age"][rows], atol=0.3)
        drawn.append([(int(labels["age"][row]), int(labels["race"][row])) for row in rows])
        return Figure()

    monkeypatch.setattr("experiments.explore.draw_faces", draw)
    for options in ({}, {"seed": 0}, {"seed": 1}, {"races": ["Black"]}, {"faces": 99, "ages": (21, 30)}):
        explore(out, data_dir=data_dir, **{"faces": 5, **options})
    first, again, other, black, whole = drawn
    assert first == again != other and len(first) == 5 and {race for _, race in black} == {1}
    assert sorted(age for age, _ in whole) == sorted([*range(21, 31), 21, 22, 23])
    assert explore(out, data_dir=data_dir, ages=(90, 99)).splitlines()[-1].startswith("0 images match, 0 drawn")
