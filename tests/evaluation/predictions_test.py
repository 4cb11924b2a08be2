"""The table of predictions: checked, read, aligned and joined."""

import codecs
import pathlib

import numpy as np
import pytest
from prediction_tables import make_table

import agegender as ag
from agegender.evaluation import predictions
from agegender.evaluation.predictions import align, check_table, join, write_predictions

AGES = np.array([20.0, 30.0])
GENDER, P_FEMALE = np.array([0.0]), np.array([0.2])


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"age": AGES}, "must have 'predicted_age' or 'p_female'"),
        ({"predicted_age": AGES}, "'predicted_age' needs 'age'"),
        ({"p_female": P_FEMALE}, "'p_female' needs 'gender'"),
        ({"age": AGES, "predicted_age": AGES, "age_low": AGES}, "'age_low' needs 'age_high'"),
        ({"age": AGES, "predicted_age": AGES, "age_high": AGES}, "'age_high' needs 'age_low'"),
        ({"gender": GENDER, "p_female": P_FEMALE, "age_low": GENDER, "age_high": GENDER}, "'age_low' needs 'age'"),
        ({"age": AGES, "predicted_age": AGES, "p_female_calibrated": AGES}, "'p_female_calibrated' needs 'p_female'"),
        ({"age": AGES, "predicted_age": AGES[:1]}, "same length"),
        ({"age": AGES[:0], "predicted_age": AGES[:0]}, "at least 1"),
        ({"age": AGES, "predicted_age": np.array([20.0, np.nan])}, r"in \[-1000, 1000\]. Received: nan"),
        ({"age": np.array([20.0, 201]), "predicted_age": AGES}, r"'age' must be in \[0, 200\]. Received: 201"),
        ({"age": np.array([20.0, -1]), "predicted_age": AGES}, r"'age' must be in \[0, 200\]. Received: -1"),
        ({"gender": GENDER, "p_female": np.array([1.2])}, r"'p_female' must be in \[0, 1\]. Received: 1.2"),
        ({"gender": np.array([2.0]), "p_female": P_FEMALE}, r"'gender' must be in \[0, 1\]. Received: 2"),
        ({"gender": np.array([0.5]), "p_female": P_FEMALE}, "'gender' must be a whole number.*Received: 0.5"),
        ({"age": AGES, "predicted_age": AGES, "race": np.array([0.0, 5.0])}, r"'race' must be in \[0, 4\]"),
        ({"age": AGES, "predicted_age": AGES, "race": np.array([0.0, 1.5])}, "'race' must be a whole number"),
        ({"age": AGES, "predicted_age": AGES, "age_low": AGES, "age_high": AGES * np.nan}, "'age_high' must be in"),
        ({"gender": GENDER, "p_female": P_FEMALE, "p_female_calibrated": -P_FEMALE}, "'p_female_calibrated' must be"),
    ],
)
def test_invalid_table_is_refused(table: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_table(table)


def test_limits_are_valid() -> None:
    check_table({"age": np.array([0.0, 200]), "predicted_age": np.array([-1000.0, 1000]), "race": np.array([0, 4])})


def test_written_table_is_read_back_exactly(tmp_path: pathlib.Path) -> None:
    table = {"file_name": np.array([f'{n}, "a".jpg' for n in range(50)]), **make_table(50)}
    write_predictions(table, tmp_path / "t.csv")
    lines = (tmp_path / "t.csv").read_text().splitlines()
    assert lines[0] == "file_name,age,gender,race,predicted_age,p_female"
    assert lines[1].startswith(f'"0, ""a"".jpg",{table["age"][0]:.0f},{table["gender"][0]:.0f},')
    again = ag.read_predictions(tmp_path / "t.csv")
    assert list(again) == ["file_name", "age", "gender", "race", "predicted_age", "p_female"]
    for key, column in again.items():
        np.testing.assert_array_equal(column, table[key])


def test_table_of_another_program_is_read(tmp_path: pathlib.Path) -> None:
    words = "age,gender,predicted_age,p_female,race,note\r\n20.0,female,25,0.5,Indian,x\r\n30,0,30,1,0,y\r\n"
    (tmp_path / "theirs.csv").write_text(words, "utf-8-sig")  # as Excel writes it, and ages as pandas does
    table = ag.read_predictions(tmp_path / "theirs.csv")
    assert {key: column.tolist() for key, column in table.items()} == {
        **{"age": [20, 30], "gender": [1, 0], "race": [3, 0], "predicted_age": [25, 30], "p_female": [0.5, 1]},
    }


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_encodings_and_separators_of_spreadsheets_are_read(
    tmp_path: pathlib.Path, encoding: str, separator: str
) -> None:
    words = "file_name, Gender,gender,p_female\n\nJürgen.jpg,,Female,0.25\n".replace(",", separator)
    (tmp_path / "theirs.csv").write_bytes(words.encode(encoding))
    table = ag.read_predictions(tmp_path / "theirs.csv")
    assert {key: column.tolist() for key, column in table.items()} == {
        **{"file_name": ["Jürgen.jpg"], "gender": [1], "p_female": [0.25]}
    }


def test_table_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "_MAX_BYTES", 2_000_000)
    with pytest.raises(ValueError, match="/dev/zero must have at most 2 MB"):
        ag.read_predictions("/dev/zero")


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "must have 'predicted_age' or 'p_female'"),
        (b"age,predicted_age\n20,21\n20\n", "line 3 must have 2 values, .* Received: 1"),
        (b"age,predicted_age\n20,old\n", "'predicted_age' must be numbers: .*old"),
        (b"gender,p_female\nwoman,0.5\n", r"'gender' must be numbers or \('male', 'female'\)"),
        (b"age,predicted_age\n20,nan\n", "Received: nan"),
        ("age,predicted_age\n20,21\n".encode("utf-16-le"), "must be a CSV file in UTF-8: .* Received: a byte 0"),
        (codecs.BOM_UTF16_LE + b"age", "must be a CSV file in UTF-8: .* truncated data"),
        ("file_name,age,predicted_age\nJürgen.jpg,20,21\n".encode("latin-1"), "must be a CSV file in UTF-8"),
        (b'age,predicted_age\n20,"' + b"1" * 200_000 + b'"\n', "line 2 is not CSV: field larger"),
        (b"age,predicted_age,age\n20,21,22\n", "must name each column once. Received 'age' several times"),
    ],
)
def test_invalid_file_is_named(tmp_path: pathlib.Path, content: bytes, error: str) -> None:
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(ValueError, match=f"x.csv.*{error}") as caught:
        ag.read_predictions(tmp_path / "x.csv")
    assert len(str(caught.value).splitlines()) == 1


COUNT = 30


def named_table() -> dict[str, np.ndarray]:
    return {"file_name": np.array([f"{i:03}.jpg" for i in range(COUNT)]), **make_table(COUNT)}


def shuffle(table: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    order = np.random.default_rng(1).permutation(COUNT)
    return {key: column[order] for key, column in table.items()}


def without(table: dict[str, np.ndarray], *keys: str) -> dict[str, np.ndarray]:
    return {key: column for key, column in table.items() if key not in keys}


def test_aligned_table_has_the_order_of_the_first() -> None:
    table = shuffle(named_table())  # in no order itself
    aligned = align(table, shuffle(table))
    for key, column in table.items():
        np.testing.assert_array_equal(aligned[key], column)


def test_aligned_table_gets_missing_labels() -> None:
    table = named_table()
    aligned = align(table, shuffle(without(table, "age", "race", "predicted_age")))
    np.testing.assert_array_equal(aligned["race"], table["race"])
    assert set(aligned) == {"file_name", "age", "gender", "race", "p_female"}


def test_joined_table_has_the_predictions_of_both() -> None:
    table = shuffle(named_table())
    joined = join(without(table, "p_female"), shuffle(without(table, "predicted_age")))
    assert set(joined) == set(table)
    for key, column in table.items():
        np.testing.assert_array_equal(joined[key], column)
    with pytest.raises(ValueError, match="ours and theirs cannot be joined: both have 'predicted_age'"):
        join(table, without(table, "p_female"), "ours", "theirs")


@pytest.mark.parametrize("key", ["age", "gender", "race"])
@pytest.mark.parametrize("combine", [align, join])
def test_tables_with_other_labels_are_refused(key: str, combine) -> None:
    first, second = named_table(), named_table()
    second[key][7] = 1 - second[key][7] if key == "gender" else 4 - second[key][7]
    values = f"{first[key][7]:g} and {second[key][7]:g} in row 8"
    with pytest.raises(ValueError, match=f"ours and theirs .* differ in '{key}' of 1 images. Received: {values}"):
        combine(without(first, "p_female"), shuffle(without(second, "predicted_age")), "ours", "theirs")


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (named_table() | {"file_name": np.array([f"{i + 1:03}.jpg" for i in range(COUNT)])}, "29 of the names in both"),
        (named_table() | {"file_name": np.array(["000.jpg"] * COUNT)}, "once each"),
        ({key: column[::-1] for key, column in make_table(COUNT).items()}, "in the same order"),
        ({key: column[:9] for key, column in make_table(COUNT).items()}, "Received: 30 and 9 images"),
    ],
)  # fmt: skip
def test_tables_of_other_images_are_refused(second: dict, words: str) -> None:
    with pytest.raises(ValueError, match=f"ours and theirs must be .*{words}"):
        align(named_table(), second, "ours", "theirs")
