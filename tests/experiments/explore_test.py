"""The look at the data: what it counts by hand, what it understands, and a whole page from the prepared faces."""

import base64
import io
import json
import os
import pathlib
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from tiny_utkface import prepare

from agegender.schema import GENDERS, RACES
from experiments.explore import explore
from experiments.exploring import page
from experiments.exploring.faces import choose_sheets
from experiments.exploring.numbers import count, find_groups
from experiments.exploring.table import Table
from experiments.exploring.where import parse_where

ROOT = pathlib.Path(__file__).parents[2]
PLOTS = {f"{name}.png" for name in ("ages", "labels", "crossing", "splits", "folds", "groups", "conflicts")}

# Eight images: two of one photograph with ages 10 and 50, three of another with both genders, three alone.
AGES = [10, 50, 30, 30, 30, 1, 2, 3]
SEXES = [0, 0, 1, 0, 1, 1, 1, 1]
GROUPS = ["a", "a", "b", "b", "b", "c", "d", "e"]
BY_HAND = Table(
    {
        "age": np.array(AGES),
        "gender": np.array(SEXES),
        "race": np.array([0, 1, 2, 3, 4, 0, 0, 0]),
        "file_name": np.array([f"{age}_0_0_{i}.jpg.chip.jpg" for i, age in enumerate(AGES)]),
        "group": np.array(GROUPS),
        "fold": np.array([0, 0, 1, 1, 1, 2, 3, 4]),
        "age_conflict": np.array([True, True] + [False] * 6),
        "gender_conflict": np.array([False, False, True, True, True, False, False, False]),
        "split": np.array(["train"] * 6 + ["test"] * 2),
        "size": np.array([[24, 24, 3]] * 7 + [[48, 32, 1]]),
        "bytes": np.array([1000] * 8),
    },
    ("train", "test"),
)
METADATA = {"seen": 10, "kept": 8, "skipped": 2, "skipped_by_reason": {"an empty file": 2}, "skipped_files": []}


def counted(table: Table = BY_HAND) -> dict:
    return count(table, find_groups(table), METADATA)


def test_the_splits_are_counted_as_by_hand() -> None:
    numbers = counted()
    train, test = numbers["splits"]["train"], numbers["splits"]["test"]
    assert (train["count"], train["share"], train["youngest"], train["oldest"]) == (6, 0.75, 1, 50)
    assert train["mean_age"] == pytest.approx(151 / 6) and train["genders"] == {"male": 3, "female": 3}
    assert (test["count"], test["mean_age"], test["female_share"]) == (2, 2.5, 1.0)
    assert test["race_shares"] == {"White": 1.0, "Black": 0, "Asian": 0, "Indian": 0, "Others": 0}
    assert [numbers["folds"][str(fold)]["count"] for fold in range(5)] == [2, 3, 1, 1, 1]
    assert numbers["crossing"]["White"] == {"male": 1, "female": 3}


def test_groups_and_conflicts_are_counted_as_by_hand() -> None:
    numbers = counted()
    assert numbers["groups"] == {
        "count": 5,
        "by_size": {"1": 3, "2": 1, "3": 1},
        "images_not_alone": 5,
        "in_several_splits": 0,
        "in_several_folds": 0,
    }
    assert numbers["conflicts"]["age"] == {"images": 2, "share": 0.25, "groups": 1}
    assert numbers["conflicts"]["gender"] == {"images": 3, "share": 0.375, "groups": 1}
    assert numbers["conflicts"]["either"] == {"images": 5, "share": 0.625, "groups": 2}
    assert numbers["conflicts"]["age_spread"] == {"groups": 1, "median": 40, "largest": 40, "years": {"40": 1}}


def test_a_group_on_two_sides_is_found() -> None:
    split = BY_HAND["split"].copy()
    split[0] = "test"  # its twin stays in train
    numbers = counted(Table({**BY_HAND.columns, "split": split}, BY_HAND.parts))
    assert (numbers["groups"]["in_several_splits"], numbers["groups"]["in_several_folds"]) == (1, 0)


def test_sizes_and_what_was_left_out_are_told() -> None:
    numbers = counted()
    assert numbers["sizes"] == {"24 x 24 x 3": 7, "48 x 32 x 1": 1}
    assert numbers["build"] == {"seen": 10, "kept": 8, "skipped": 2, "skipped_by_reason": {"an empty file": 2}}
    assert json.loads(json.dumps(numbers)) == numbers


@pytest.mark.parametrize(
    ("words", "rows"),
    [
        ("male", [0, 1, 3]),
        (" FEMALE ,  30 ", [2, 4]),
        ("1-10", [0, 5, 6, 7]),
        ("2 \u2013 3, white", [6, 7]),
        ("asian, Indian, others", [2, 3, 4]),
        ("male, female, 50", [1]),
        ("fold 3", [6]),
        ("fold 2, Fold 4", [5, 7]),
        ("conflict", [0, 1, 2, 3, 4]),
        ("age conflict", [0, 1]),
        ("gender  conflict, female", [2, 4]),
        ("no conflict", [5, 6, 7]),
        ("male, 116", []),
    ],
)
def test_a_condition_in_words_is_understood(words: str, rows: list[int]) -> None:
    assert np.flatnonzero(parse_where(words).matches(BY_HAND.columns)).tolist() == rows


@pytest.mark.parametrize("words", ["man", "male 25", "", "male,", "fold", "fold x", "-5", "over 60", "conflicts"])
def test_an_unknown_word_is_answered_with_those_that_are_known(words: str) -> None:
    with pytest.raises(ValueError, match="does not know") as error:
        parse_where(words)
    for known in (*GENDERS, *RACES, "60-70", "fold 0", "age conflict", "no conflict", f"Received: where={words!r}"):
        assert known in str(error.value)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("117", "from 0 to 116"),
        ("70-60", "from 0 to 116"),
        ("fold 5", "one or more of (0, 1, 2, 3, 4)"),
        ("20, 30", "one age or range"),
        ("conflict, no conflict", "opposites"),
    ],
)
def test_a_condition_that_cannot_be_is_an_error(words: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)) as error:
        parse_where(words)
    assert f"where={words!r}" in str(error.value)


def test_the_faces_are_a_choice_of_the_seed_that_satisfies_the_condition() -> None:
    groups, wheres = find_groups(BY_HAND), [parse_where("female"), parse_where("male, 116")]
    first, again, other = (choose_sheets(BY_HAND, groups, wheres, 3, seed) for seed in (1, 1, 2))
    assert first == again and first != other
    everybody, female, nobody, conflicting = first
    assert len(everybody.images) == len(female.images) == 3 and set(female.images) < {2, 4, 5, 6, 7}
    assert nobody.images == [] and nobody.words == "No image satisfies this condition."
    assert [row.images for row in conflicting.rows] == [(0, 1), (2, 3, 4)]
    assert conflicting.rows[0].words == "2 images: 10 to 50 years, male"
    assert conflicting.rows[1].words == "3 images: 30 years, male and female"


def test_names_that_look_like_html_stay_words() -> None:
    assert "<b>" not in page.paragraph("<b>") + page.table(["<b>"], [["<b>"]]) + page.plot(b"", '"<b>')


class Page(HTMLParser):
    """What a browser would load, and what it would show."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.sources += [value or "" for key, value in attrs if key == "src"]
        self.links += [value or "" for key, value in attrs if key == "href"]

    def handle_data(self, data: str) -> None:
        self.words += data

    def images(self, kind: str) -> list[Image.Image]:
        head = f"data:image/{kind};base64,"
        contents = [base64.b64decode(source.removeprefix(head)) for source in self.sources if source.startswith(head)]
        return [Image.open(io.BytesIO(content)) for content in contents]


def script(*arguments: str) -> subprocess.CompletedProcess:
    environ = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-m", "experiments.explore", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def look(prepared: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A look at the synthetic faces, by the command that users run."""
    out = tmp_path_factory.mktemp("looks") / "new" / "look"
    done = script(f"--data_dir={prepared}", f"--out={out}", "--where=Female", "--where=male, 116", "--faces=20")
    assert done.returncode == 0, done.stderr[-3000:]
    (out / "stdout.txt").write_text(done.stdout)
    return out


def test_a_look_writes_every_plot_and_says_where_the_page_is(look: pathlib.Path) -> None:
    words = (look / "stdout.txt").read_text()
    assert words.strip().endswith(f"Page: {look / 'index.html'}")
    assert "may not be published" in words and "no image satisfies 'male, 116'" in words
    assert re.search(r"together +240 +100\.0%", words)
    assert {path.name for path in look.glob("*.png")} >= PLOTS | {"random.png", "where_1.png"}
    assert not (look / "where_2.png").exists()
    for path in look.glob("*.png"):
        with Image.open(path) as image:
            assert np.asarray(image.convert("L")).std() > 5, path.name


def test_the_page_needs_nothing_but_itself(look: pathlib.Path) -> None:
    text = (look / "index.html").read_text()
    found = Page(text)
    assert found.sources and all(source.startswith("data:image/") for source in found.sources)
    assert found.links and all(f'id="{link[1:]}"' in text for link in found.links if link.startswith("#"))
    assert all(link.startswith("#") for link in found.links) and not found.tags & {"script", "link", "iframe"}
    assert "url(" not in text and "@import" not in text and 'name="viewport"' in text
    assert "may not be published" in found.words and "No image satisfies this condition." in found.words


def test_the_page_shows_the_plots_and_as_many_faces_as_asked_for(look: pathlib.Path) -> None:
    found = Page((look / "index.html").read_text())
    assert len(found.images("png")) == len(PLOTS)
    faces = found.images("jpeg")
    assert len(faces) >= 40 and {face.size for face in faces} == {(24, 24)}  # 20 at random and 20 women


def test_the_numbers_are_those_of_the_prepared_data(look: pathlib.Path, prepared: pathlib.Path) -> None:
    import tensorflow_datasets as tfds

    numbers = json.loads((look / "numbers.json").read_text())
    builder = tfds.core.read_only_builder.builder_from_files("utkface", data_dir=prepared)
    examples = [example for split in builder.info.splits for example in tfds.as_numpy(builder.as_dataset(split))]
    women = sum(int(example["gender"]) for example in examples)
    assert numbers["all"]["count"] == 240 and numbers["where"] == {"Female": women, "male, 116": 0}
    assert numbers["all"]["mean_age"] == pytest.approx(np.mean([example["age"] for example in examples]))
    for split, part in numbers["splits"].items():
        assert part["count"] == builder.info.splits[split].num_examples
    assert numbers["sizes"] == {"24 x 24 x 3": 240}
    assert numbers["groups"]["in_several_splits"] == numbers["groups"]["in_several_folds"] == 0
    assert numbers["build"]["kept"] == 240


def rows(count: int, **labels: object) -> list[dict]:
    return [{"age": age, "gender": age % 2, "fold": age % 5, **labels} for age in range(count)]


def test_a_look_at_one_split_shows_its_conflicts_and_removes_an_earlier_sheet(tmp_path: pathlib.Path) -> None:
    same = {"group": "same", "fold": 3, "age_conflict": True}
    data = prepare(tmp_path / "data", {"train": rows(6), "test": [*rows(4), {"age": 5, **same}, {"age": 80, **same}]})
    out = tmp_path / "out"
    explore(out, data_dir=str(data), where=["male", "female"])
    told = explore(out, data_dir=str(data), split="test", where=["conflict"])
    assert "train" not in told and "together" in told
    numbers = json.loads((out / "numbers.json").read_text())
    assert list(numbers["splits"]) == ["test"] and numbers["where"] == {"conflict": 2}
    assert numbers["conflicts"]["age_spread"]["largest"] == 75
    assert (out / "conflicting_groups.png").exists() and not (out / "where_2.png").exists()
    assert "2 images: 5 to 80 years, male" in Page((out / "index.html").read_text()).words


def test_parts_of_splits_are_looked_at_together(tmp_path: pathlib.Path) -> None:
    data = prepare(tmp_path / "data", {"train": rows(10), "test": rows(4)})
    explore(tmp_path / "out", data_dir=str(data), split="train[:50%]+test")
    numbers = json.loads((tmp_path / "out" / "numbers.json").read_text())
    assert {name: part["count"] for name, part in numbers["splits"].items()} == {"train": 5, "test": 4}


def test_data_of_an_older_builder_asks_to_be_built_again(tmp_path: pathlib.Path) -> None:
    data = prepare(tmp_path / "data", {"train": rows(4)}, without=["group", "fold"])
    with pytest.raises(ValueError, match=r"needs \['fold', 'group'\].*with --overwrite"):
        explore(tmp_path / "out", data_dir=str(data))


def test_help_explains_the_flags() -> None:
    words = script("--help").stdout
    assert all(flag in words for flag in ("--data_dir", "--out", "--where", "--split")) and "no conflict" in words


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"data_dir": "nowhere"}, FileNotFoundError, "No prepared data set 'utkface'"),
        ({"where": ["male", "man"]}, ValueError, "`--where` does not know 'man'"),
        ({"split": "tset"}, ValueError, "`split` must be 'all', or some of"),
        ({"split": "train+test[50:50]"}, ValueError, "with a image or more in each. Received: split='test[50:50]'"),
    ],
)
def test_what_cannot_be_looked_at_is_named(
    prepared: pathlib.Path, tmp_path: pathlib.Path, options: dict, error: type, words: str
) -> None:
    with pytest.raises(error, match=re.escape(words)):
        explore(tmp_path, **{"data_dir": str(prepared), **options})
    assert not list(tmp_path.iterdir())


def test_what_is_wrong_is_one_line_and_no_traceback(tmp_path: pathlib.Path) -> None:
    (file := tmp_path / "file").touch()
    for arguments, words in ((["--where=man"], "ValueError: `--where` does not know"), ([], "FileExistsError: ")):
        done = script(f"--out={file}", *arguments)
        assert done.returncode == 1 and done.stderr.startswith(words) and done.stderr.count("\n") == 1
    assert "--out must have a value" in script().stderr
