"""Several models compared on the same images."""

import json
import pathlib

import numpy as np
import pytest
from prediction_tables import make_table

import agegender as ag
from agegender.evaluation import metrics
from agegender.evaluation.predictions import write_predictions
from experiments.compare import build_sections, compare, format_comparison, report_or_compare, write_comparison

COUNT = 300
Table = dict[str, np.ndarray]


def make_first() -> Table:
    return {"file_name": np.array([f"{i:03}.jpg" for i in range(COUNT)]), **make_table(COUNT)}


def make_better() -> Table:
    """The same images in another order, with age errors a quarter smaller."""
    table = make_first()
    table["predicted_age"] = table["age"] + 0.75 * (table["predicted_age"] - table["age"])
    order = np.random.default_rng(1).permutation(COUNT)
    return {key: column[order] for key, column in table.items()}


def without(table: Table, key: str) -> Table:
    return {name: column for name, column in table.items() if name != key}


def test_difference_is_paired() -> None:
    result = compare({"a": make_first(), "b": make_better()})
    a, b = (result["all"][name] for name in "ab")
    difference = b["differences"]["mae"]
    assert difference["value"] == b["metrics"]["mae"] - a["metrics"]["mae"]
    assert difference["value"] == pytest.approx(-0.25 * a["metrics"]["mae"])
    # In every bootstrap sample, b is a quarter better.
    assert difference["interval"] == pytest.approx([-0.25 * end for end in reversed(a["intervals"]["mae"])])
    assert "differences" not in a and b["differences"]["gender_accuracy"] == {"value": 0.0, "interval": None}


def test_each_model_has_the_numbers_of_its_own_report() -> None:
    result, report = compare({"a": make_first(), "b": make_better()}), ag.measure(make_first())
    assert result["count"] == COUNT and result["baseline"] == "a" and result["bootstrap"] == report.bootstrap
    assert result["all"]["a"] == {"count": COUNT, "metrics": report.metrics, "intervals": report.intervals}
    assert list(result["groups"]) == ["age", "gender", "race"]
    assert result["groups"]["race"]["Asian"]["a"] == report.groups["race"]["Asian"].to_dict()


def test_groups_are_measured_after_the_tables_are_aligned() -> None:
    result, better = compare({"a": make_first(), "b": make_better()}), make_better()
    for attribute, parts in ag.measure(better).groups.items():
        if " x " not in attribute:
            for name, group in parts.items():
                assert result["groups"][attribute][name]["b"]["metrics"] == pytest.approx(group.metrics)
    asian, first = better["race"] == 2, make_first()
    expected = metrics.bias(better["age"][asian], better["predicted_age"][asian]) - metrics.bias(
        first["age"][first["race"] == 2], first["predicted_age"][first["race"] == 2]
    )
    assert result["groups"]["race"]["Asian"]["b"]["differences"]["bias"]["value"] == pytest.approx(expected)
    assert expected < -1


def test_fewer_than_ten_images_have_no_interval() -> None:
    for count in (9, 10):
        tables = {name: {key: column[:count] for key, column in make_first().items()} for name in "ab"}
        tables["b"]["predicted_age"] = tables["a"]["predicted_age"] + np.arange(count)
        difference = compare(tables)["all"]["b"]["differences"]["bias"]
        assert difference["value"] == pytest.approx((count - 1) / 2) and (difference["interval"] is None) == (
            count == 9
        )


def test_one_model_is_not_compared() -> None:
    with pytest.raises(ValueError, match=r"two or more models.*\['a'\]"):
        compare({"a": make_first()})


def test_models_are_compared_on_their_common_heads() -> None:
    result = compare({"a": make_first(), "b": without(make_better(), "p_female")})
    assert set(result["all"]["b"]["differences"]) == {"mae", "rmse", "median_error", "bias", "cs5"}
    lines = format_comparison(result).splitlines()
    assert len(lines) == 1 + 2 * 5 + 3
    (line,) = [line for line in lines if line.startswith("age MAE, years") and " b " in line]
    difference = result["all"]["b"]["differences"]["mae"]
    assert line.split()[3:5] == ["b", f"{result['all']['b']['metrics']['mae']:.2f}"]
    assert f"{difference['value']:+.2f} ({difference['interval'][0]:+.2f} to" in line


def test_comparison_is_written(tmp_path: pathlib.Path) -> None:
    result = compare({"runs/a": make_first(), "runs/b": make_better()})
    page = write_comparison(result, tmp_path).read_text()
    assert "<th>difference to runs/a</th>" in page and "<script" not in page
    assert json.loads((tmp_path / "comparison.json").read_text()) == json.loads(json.dumps(result))
    _, (line, *_) = build_sections(result)["By gender"][0]
    group = result["groups"]["gender"]["male"]["runs/b"]
    assert line[:3] == ["male", str(group["count"]), "runs/b"] and len(line) == 6
    assert line[3].startswith(f"{group['differences']['mae']['value']:+.2f} (")


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("a model was run")


def test_tables_are_compared_without_running_a_model(tmp_path: pathlib.Path) -> None:
    ours, theirs, ages, genders = (str(tmp_path / f"{name}.csv") for name in ("ours", "theirs", "ages", "genders"))
    write_predictions(make_first(), ours)
    write_predictions(make_better(), theirs)
    write_predictions(without(make_first(), "p_female"), ages)
    write_predictions(without(make_first(), "predicted_age"), genders)
    words = report_or_compare([], [ours, theirs, f"{ages}+{genders}"], tmp_path / "out", refuse)
    assert words.endswith(f"Comparison: {tmp_path / 'out' / 'comparison.html'}") and words.count("age MAE") == 3
    result = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert result["all"][f"{ages}+{genders}"]["differences"]["auc"]["value"] == 0
    assert "Report:" in report_or_compare([], [f"{ages}+{genders}"], tmp_path / "one", refuse)
    assert (tmp_path / "one" / "report.html").exists()


def test_runs_are_evaluated_and_compared_beside_the_first(tmp_path: pathlib.Path) -> None:
    reports = {tmp_path / "a": ag.measure(make_first()), tmp_path / "b": ag.measure(make_better())}
    words = report_or_compare([str(path) for path in reports], [], None, reports.__getitem__)
    assert words.endswith(str(tmp_path / "a" / "comparison" / "comparison.html"))


def test_report_without_a_run_needs_a_folder(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="--out must"):
        report_or_compare([], [str(tmp_path / "a.csv")], None, refuse)
    with pytest.raises(ValueError, match="--workdir or --predictions"):
        report_or_compare([], [], None, refuse)
