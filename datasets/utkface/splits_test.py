"""Photograph groups, their splits and folds, and the table of the published set."""

# mypy: allow-untyped-defs

import csv
import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from . import labels, splits

NO_PAIRS = np.empty((0, 2), np.intp)


def table():
    with splits.TABLE.open(newline="") as file:
        return list(csv.DictReader(file))


def test_split_and_fold_are_stable_hashes():
    golden = {"1_0_0_1": ("train", 4), "1_0_0_13": ("validation", 1), "1_0_0_3": ("test", 1)}
    assert {name: (splits.split_of(name), splits.fold_of(name)) for name in golden} == golden
    for name in map(str, range(200)):  # the first 64 bits of SHA-256
        tenth = int(hashlib.sha256(name.encode()).hexdigest()[:16], 16) % 10
        assert splits.split_of(name) == ("validation" if tenth == 8 else "test" if tenth == 9 else "train")
        assert splits.fold_of(name) == int(hashlib.sha256(b"fold " + name.encode()).hexdigest()[:16], 16) % 5


def test_pairs_chain_to_groups_named_after_the_first_stem():
    groups = splits.assign_groups(["d", "c", "b", "a"], np.array([[0, 1], [1, 2]]), {})
    assert groups == ["b", "b", "b", "a"]


def test_equal_stems_are_one_group():
    assert splits.assign_groups(["b", "a", "b"], NO_PAIRS, {}) == ["b", "a", "b"]


def test_known_group_keeps_its_name():
    known = {"k1": "k1", "k2": "k1", "k3": "k1"}
    assert splits.assign_groups(["k2", "x", "k3"], NO_PAIRS, known) == ["k1", "x", "k1"]
    assert splits.assign_groups(["k3", "a"], np.array([[0, 1]]), known) == ["k1", "k1"]


def test_joined_known_groups_become_one():
    known = {"k1": "k1", "k2": "k1", "m1": "m1", "m2": "m1"}
    assert splits.assign_groups(["k2", "m2", "x"], np.array([[0, 2], [1, 2]]), known) == ["k1"] * 3


def test_conflicts_apply_to_all_images_of_a_group():
    named = [labels.Labels(20, 0, 0, "1"), labels.Labels(21, 0, 0, "2"), labels.Labels(21, 1, 0, "3")]
    assert splits.find_conflicts(["a", "a", "b"], named) == ([True, True, False], [False, False, False])
    assert splits.find_conflicts(["a", "b", "b"], named) == ([False, False, False], [False, True, True])


def test_no_images_have_no_groups():
    assert splits.assign_groups([], NO_PAIRS, {}) == []


def test_table_agrees_with_the_hash():
    rows = table()
    assert len({row["file_name"] for row in rows}) == len(rows) > 20_000
    for row in rows:
        assert (row["split"], row["fold"]) == (splits.split_of(row["group"]), str(splits.fold_of(row["group"])))


def test_table_names_groups_after_their_first_stem():
    members: dict[str, list[str]] = {}
    for row in table():
        members.setdefault(row["group"], []).append(labels.parse_name(row["file_name"]).stem)
    assert all(group == min(stems) for group, stems in members.items())


def test_known_groups_have_several_images():
    known = splits.read_known_groups()
    sizes = Counter(row["group"] for row in table())
    assert len(known) == sum(size for size in sizes.values() if size > 1) > 1_500
    assert Counter(known.values()) == {group: size for group, size in sizes.items() if size > 1}


@pytest.mark.parametrize(
    "content",
    [b"file,group\n", b"file_name,group\nmy cat.jpg,1_0_0_1\n", b"file_name,group\n1_0_0_1.jpg", b"\xff\xfe\n"],
)
def test_damaged_table_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / "splits.csv").write_bytes(content + b"\n,\n")
    with pytest.raises(ValueError, match=r"splits\.csv is damaged.*Received: "):
        splits.read_known_groups(tmp_path / "splits.csv")
