"""The script that draws the prepared data set."""

import pathlib

import numpy as np
import pytest
from PIL import Image
from tiny_utkface import prepare

from experiments.explore import choose_rows, draw_ages, draw_faces, draw_splits, explore, parse_where

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


@pytest.mark.parametrize(
    ("words", "rows"),
    [
        ("male", [0, 1, 3]),
        (" FEMALE ,  30 ", [2, 4]),
        ("1-10", [0, 5, 6, 7]),
        ("2 \u2013 3, white", [6, 7]),
        ("asian, Indian, others", [2, 3, 4]),
        ("fold 2, Fold 4", [5, 7]),
        ("no conflict", [5, 6, 7]),
        ("male, 116", []),
    ],
)
def test_condition_selects_rows(words: str, rows: list[int]) -> None:
    label_filter, in_conflict = parse_where(words)
    assert np.flatnonzero(label_filter.matches(LABELS)).tolist() == rows and not in_conflict
    assert parse_where(f"{words}, conflict") == (label_filter, True)


@pytest.mark.parametrize(
    ("words", "reason"),
    [("man", "'man' in where='man'"), ("", "60-70"), ("117", r"0\.\.116"), ("20, 30", "one age or range")],
)
def test_invalid_condition_is_refused(words: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_where(words)


def test_rows_are_chosen_by_the_seed() -> None:
    matching = np.arange(100) % 2 == 0
    chosen = choose_rows(matching, 10, 1)
    assert chosen == choose_rows(matching, 10, 1) == sorted(set(chosen)) and len(chosen) == 10
    assert all(row % 2 == 0 for row in chosen) and chosen != choose_rows(matching, 10, 2)
    assert choose_rows(matching, 99, 1) == list(range(0, 100, 2))


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


def test_a_look_draws_the_prepared_data(tmp_path: pathlib.Path) -> None:
    rows = [{"age": 20 + n, "gender": n % 2, "group": "g", "age_conflict": n < 3} for n in range(12)]
    prepare(tmp_path / "data", {"train": rows, "test": rows[:4]})
    out = tmp_path / "look"
    words = explore(out, data_dir=str(tmp_path / "data"), where=["female", "conflict", "90"], faces=9)
    _, train, test, female, conflict, old, _ = words.splitlines()
    assert train.split() == ["train", "12", "25.50", "50.0%", "3"] and test.split() == [
        "test",
        "4",
        "21.50",
        "50.0%",
        "3",
    ]
    assert (
        female.startswith("8 images where 'female', 8 on") and conflict.startswith("6 images") and old.startswith("0 ")
    )
    assert {path.name for path in out.iterdir()} == {"ages.png", "splits.png", "faces_1.png", "faces_2.png"}
    with Image.open(out / "faces_1.png") as image:
        assert image.size == (1200, 200)
    words = explore(out, data_dir=str(tmp_path / "data"), split="train[:50%]+test")
    assert [line.split()[:2] for line in words.splitlines()[1:3]] == [["train", "6"], ["test", "4"]]
    with pytest.raises(ValueError, match="Received: 'dev'"):
        explore(out, data_dir=str(tmp_path / "data"), split="dev")
