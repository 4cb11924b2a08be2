import json
import pathlib
import re

import numpy as np
import pytest
from groups_test import faces

import agegender as ag
from agegender.evaluation.report_files import write_predictions
from experiments import reporting
from experiments.compare import align, compare, join, summary, write_comparison

COUNT = 300


def first() -> dict[str, np.ndarray]:
    return {"file_name": np.array([f"{i:03}.jpg" for i in range(COUNT)]), **faces(COUNT)}


def better() -> dict[str, np.ndarray]:
    """The same images in another order, each age guessed a quarter nearer."""
    table = first()
    table["predicted_age"] = table["age"] + 0.75 * (table["predicted_age"] - table["age"])
    order = np.random.default_rng(1).permutation(COUNT)
    return {key: column[order] for key, column in table.items()}


def test_a_difference_is_that_of_the_values_and_its_interval_is_paired() -> None:
    told = compare({"a": first(), "b": better()})
    a, b = (told["all"][name] for name in "ab")
    difference = b["differences"]["mae"]
    assert difference["value"] == b["model"]["mae"] - a["model"]["mae"] == pytest.approx(-0.25 * a["model"]["mae"])
    # Whatever images are drawn, b is a quarter better: far surer than each of the two values.
    low, high = difference["interval"]
    assert low < difference["value"] < high < 0
    assert high - low < 0.3 * (a["intervals"]["mae"][1] - a["intervals"]["mae"][0])
    assert "differences" not in a and b["differences"]["gender_accuracy"] == {"value": 0.0, "interval": None}


def test_each_side_has_the_numbers_of_its_own_report() -> None:
    told = compare({"a": first(), "b": better()})
    report = ag.measure(first())
    assert told["all"]["a"]["model"] == report.model and told["all"]["a"]["intervals"] == report.intervals
    group = told["groups"]["race"]["Asian"]
    assert group["a"]["model"] == report.groups["race"]["Asian"].model
    assert group["b"]["differences"]["mae"]["value"] < 0


def test_an_age_model_and_a_gender_model_are_joined_into_one() -> None:
    one, other = first(), better()
    ages = {key: column for key, column in one.items() if key != "p_female"}
    genders = {key: column for key, column in other.items() if key != "predicted_age"}
    joined = join(ages, genders)
    np.testing.assert_array_equal(joined["p_female"], one["p_female"])  # in the order of the first
    assert compare({"joint": one, "two": joined})["all"]["two"]["differences"]["log_loss"]["value"] == 0
    with pytest.raises(ValueError, match="cannot be joined: both have 'predicted_age'"):
        join(one, ages)


def test_models_with_one_head_are_compared_on_what_they_share() -> None:
    ages = {key: column for key, column in better().items() if key != "p_female"}
    told = compare({"a": first(), "b": ages})
    assert "gender_accuracy" not in told["all"]["b"]["differences"] and "mae" in told["all"]["b"]["differences"]
    assert summary(told).count("gender accuracy") == 1


def changed(**columns: np.ndarray) -> dict[str, np.ndarray]:
    return {key: columns.get(key, column) for key, column in first().items()}


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (changed(file_name=np.array([f"{i:03}.jpg" for i in range(1, COUNT + 1)])), "299 of the names in both"),
        (changed(file_name=np.array(["000.jpg"] * COUNT)), "once each"),
        (changed(age=first()["age"] + 1), "they differ in 'age'"),
        ({key: column[::-1] for key, column in first().items() if key != "file_name"}, "in the same order"),
    ],
)
def test_other_images_are_refused(second: dict, words: str) -> None:
    with pytest.raises(ValueError, match=f"ours and theirs must be .*{words}"):
        align(first(), second, "ours", "theirs")


def test_the_comparison_is_written_for_programs_and_for_people(tmp_path: pathlib.Path) -> None:
    page = write_comparison(compare({"runs/a": first(), "runs/b": better()}), tmp_path)
    words = page.read_text()
    assert "difference to runs/a" in words and not re.search(r"<script|<link|src=", words)
    assert json.loads((tmp_path / "comparison.json").read_text())["baseline"] == "runs/a"
    assert "| age MAE, years | runs/b |" in (tmp_path / "comparison.md").read_text()


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("a model was run")


def test_dumps_are_compared_without_running_a_model(tmp_path: pathlib.Path) -> None:
    ours, theirs, ages, genders = (str(tmp_path / f"{name}.csv") for name in ("ours", "theirs", "ages", "genders"))
    write_predictions(first(), ours)
    write_predictions(better(), theirs)
    write_predictions({key: column for key, column in first().items() if key != "p_female"}, ages)
    write_predictions({key: column for key, column in first().items() if key != "predicted_age"}, genders)
    words = reporting.report_on([], [ours, theirs, f"{ages}+{genders}"], tmp_path / "out", refuse)
    assert "Comparison:" in words and words.count("age MAE, years") == 3
    told = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert told["all"][f"{ages}+{genders}"]["differences"]["auc"]["value"] == 0
    assert "Report:" in reporting.report_on([], [f"{ages}+{genders}"], tmp_path / "one", refuse)
    assert (tmp_path / "one" / "report.html").exists()


def test_runs_are_evaluated_and_then_compared_beside_the_first(tmp_path: pathlib.Path) -> None:
    reports = {tmp_path / "a": ag.measure(first()), tmp_path / "b": ag.measure(better())}
    words = reporting.report_on([str(path) for path in reports], [], None, reports.__getitem__)
    assert str(tmp_path / "a" / "comparison" / "comparison.html") in words


def test_a_report_that_belongs_to_no_run_needs_a_place(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="--out must say"):
        reporting.report_on([], [str(tmp_path / "a.csv")], None, refuse)
