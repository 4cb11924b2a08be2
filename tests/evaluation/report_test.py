"""The numbers of a report, recomputed in plain Python from predictions.csv."""

import csv
import json
import math
import pathlib
import statistics

import numpy as np
import pytest
from prediction_tables import make_table

import agegender as ag

COUNT = 300


def make_predictions() -> dict[str, np.ndarray]:
    table = make_table(COUNT)
    names = np.array([f"{i}.jpg" for i in range(COUNT)])
    return {
        **{"file_name": names, "group": np.char.replace(names, "1", "2")},  # some photographs twice
        **table,
        **{"age_low": table["predicted_age"] - 4.5, "age_high": table["predicted_age"] + np.float64(5.1)},
        "p_female_calibrated": 0.8 * table["p_female"] + 0.1,
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("report") / "of" / "a run"
    report = ag.measure(make_predictions(), nominal_coverage=0.9, temperature=1.5)
    assert ag.write_report(report, folder) == folder / "report.html"
    return folder


@pytest.fixture(scope="module")
def rows(written: pathlib.Path) -> list[dict]:
    with open(written / "predictions.csv", newline="") as file:
        text = ("file_name", "group")
        return [{k: v if k in text else float(v) for k, v in row.items()} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def report(written: pathlib.Path) -> dict:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return json.loads((written / "report.json").read_text(), parse_constant=refuse)


def by_hand(rows: list[dict]) -> dict[str, float | None]:
    """The measures in plain Python, from their definitions."""
    errors = [row["predicted_age"] - row["age"] for row in rows]
    women = [row["p_female"] for row in rows if row["gender"] == 1]
    men = [row["p_female"] for row in rows if row["gender"] == 0]
    pairs = [1.0 if woman > man else 0.5 if woman == man else 0.0 for woman in women for man in men]
    return {
        "mae": statistics.fmean(map(abs, errors)),
        "rmse": math.sqrt(statistics.fmean(error**2 for error in errors)),
        "median_error": statistics.median(map(abs, errors)),
        "bias": statistics.fmean(errors),
        "cs5": sum(abs(error) <= 5 for error in errors) / len(rows),
        "gender_accuracy": (sum(p >= 0.5 for p in women) + sum(p < 0.5 for p in men)) / len(rows),
        "auc": statistics.fmean(pairs) if pairs else None,
        "log_loss": -statistics.fmean([*map(math.log, women), *(math.log(1 - p) for p in men)]),
    }


def test_metrics_of_all_images(rows: list[dict], report: dict) -> None:
    assert report["count"] == len(rows) == COUNT
    assert report["metrics"] == pytest.approx(by_hand(rows), rel=1e-12)


def test_baseline_is_the_median_age_and_the_share_of_women(rows: list[dict], report: dict) -> None:
    constant = {
        "predicted_age": statistics.median(row["age"] for row in rows),
        "p_female": statistics.fmean(row["gender"] for row in rows),
    }
    assert report["baseline"] == pytest.approx(by_hand([row | constant for row in rows]), rel=1e-12)


def test_metrics_of_groups(rows: list[dict], report: dict) -> None:
    for code, (name, group) in enumerate(report["groups"]["race"].items()):
        of_race = [row for row in rows if row["race"] == code]
        assert name == ag.schema.RACES[code] and group["count"] == len(of_race)
        assert group["metrics"] == pytest.approx(by_hand(of_race), rel=1e-12)
    women = [row for row in rows if 20 <= row["age"] < 30 and row["gender"] == 1]
    group, expected = report["groups"]["age x gender"]["20-29, female"], by_hand(women)
    assert group["metrics"].pop("auc") is None is expected.pop("auc")
    assert group["metrics"] == pytest.approx(expected, rel=1e-12)


def test_curve_goes_from_0_to_20_years(rows: list[dict], report: dict) -> None:
    assert [point["years"] for point in report["curve"]] == list(range(21))
    for point in report["curve"]:
        assert point["value"] == sum(abs(r["predicted_age"] - r["age"]) <= point["years"] for r in rows) / COUNT
        if 0 < point["years"] < 12:  # all or none of the errors are beyond
            assert point["interval"][0] < point["value"] < point["interval"][1]


def test_calibration(rows: list[dict], report: dict) -> None:
    assert report["calibration"]["temperature"] == 1.5
    for stage, key in (("before", "p_female"), ("after", "p_female_calibrated")):
        bins: dict[int, list[dict]] = {}
        for row in rows:
            bins.setdefault(min(int(row[key] * 10), 9), []).append(row)
        errors = [abs(sum(row[key] - row["gender"] for row in some)) for some in bins.values()]
        measured = report["calibration"][stage]
        assert measured["ece"]["value"] == pytest.approx(sum(errors) / COUNT, rel=1e-12)
        assert [each["count"] for each in measured["reliability"]] == [len(bins[index]) for index in sorted(bins)]
        losses = [-math.log(row[key] if row["gender"] else 1 - row[key]) for row in rows]
        assert measured["log_loss"]["value"] == pytest.approx(statistics.fmean(losses), rel=1e-12)


def test_coverage(rows: list[dict], report: dict) -> None:
    coverage = report["coverage"]
    assert coverage["nominal"] == 0.9
    inside = [row["age_low"] <= row["age"] <= row["age_high"] for row in rows]
    assert coverage["all"]["count"] == COUNT and coverage["all"]["value"] == sum(inside) / COUNT
    assert coverage["all"]["mean_width"] == pytest.approx(9.6, abs=1e-5)
    black = [row["age_low"] <= row["age"] <= row["age_high"] for row in rows if row["race"] == 1]
    assert coverage["groups"]["race"]["Black"]["value"] == sum(black) / len(black)


def test_interval_is_near_that_of_another_bootstrap(rows: list[dict], report: dict) -> None:
    names = sorted({row["group"] for row in rows})
    errors = {name: [abs(r["predicted_age"] - r["age"]) for r in rows if r["group"] == name] for name in names}
    draws = np.random.default_rng(99).integers(0, len(names), (400, len(names)))
    samples = [statistics.fmean(error for index in draw for error in errors[names[index]]) for draw in draws]
    assert report["bootstrap"] == {
        **{"repetitions": 1000, "seed": 0, "resampled": "photograph groups", "units": len(names)}
    }
    assert report["intervals"]["mae"] == pytest.approx(list(np.quantile(samples, [0.025, 0.975])), abs=0.12)


def test_table_without_groups_resamples_images() -> None:
    report = ag.measure(make_table(40), repetitions=7, seed=3)
    assert report.bootstrap == {"repetitions": 7, "seed": 3, "resampled": "images", "units": 40}


def test_seed_and_repetitions_act_on_every_interval() -> None:
    reports = [ag.measure(make_predictions(), **options) for options in ({}, {"seed": 1}, {"repetitions": 50})]
    for intervals in (
        [report.intervals["mae"] for report in reports],
        [report.curve[5]["interval"] for report in reports],
        [report.groups["race"]["White"].intervals["auc"] for report in reports],
        [report.gaps["race"]["mae"].interval for report in reports],
        [report.calibration["after"]["ece"]["interval"] for report in reports],
        [report.coverage["all"]["interval"] for report in reports],
    ):
        assert len(set(intervals)) == 3
    assert ag.measure(make_predictions()) == reports[0]


@pytest.mark.parametrize("count", [9, 10])
def test_ten_images_have_intervals(count: int) -> None:
    table = {key: column[:count] for key, column in make_predictions().items()}
    report = ag.measure(table | {"age_low": table["age"] - 1 + 2 * (np.arange(count) % 2)})
    for interval in (
        report.intervals["mae"],
        report.curve[2]["interval"],
        report.calibration["after"]["log_loss"]["interval"],
        report.coverage["all"]["interval"],
    ):
        assert (interval is None) == (count == 9)


def test_what_is_read_back_measures_exactly_the_same(written: pathlib.Path) -> None:
    again = ag.measure(ag.read_predictions(written / "predictions.csv"), nominal_coverage=0.9, temperature=1.5)
    assert json.loads(json.dumps(again.to_dict())) == json.loads((written / "report.json").read_text())


def test_printed_report() -> None:
    """Forty people of 25 are predicted 28, forty of 45 are predicted 46."""
    ages = np.repeat([25.0, 45.0], 40)
    table = {"age": ages, "predicted_age": ages + np.repeat([3.0, 1.0], 40)}
    assert str(ag.measure(table)).splitlines() == [
        "80 images                   model       95 % interval   constant baseline",
        f"age MAE, years               2.00 {format_interval(table, 'mae'):>19}               10.00",
        f"age RMSE, years              2.24 {format_interval(table, 'rmse'):>19}               10.00",
        f"age median error, years      2.00 {format_interval(table, 'median_error'):>19}" + "10.00".rjust(20),
        f"age bias, years             +2.00 {format_interval(table, 'bias', '+'):>19}               +0.00",
        "age CS@5                   100.0%         no interval                0.0%",
        "",
        "age       images   age MAE, years  age bias, years",
        "20-29         40             3.00            +3.00",
        "40-49         40             1.00            +1.00",
        "",
        "from the best group to the worst, of those with 30 images or more",
        "age MAE, years by age: 1.00 (40-49) to 3.00 (20-29)",
    ]


def format_interval(table: dict, key: str, sign: str = "") -> str:
    low, high = ag.measure(table).intervals[key]
    return f"{low:{sign}.2f} to {high:{sign}.2f}"


def test_report_without_age_has_no_curve_and_no_coverage() -> None:
    table = make_table()
    report = ag.measure({"gender": table["gender"], "p_female": table["p_female"]})
    assert report.curve == [] and report.coverage is None and "after" not in report.calibration
    assert list(report.metrics) == ["gender_accuracy", "auc", "log_loss"]
    assert ag.measure({"age": table["age"], "predicted_age": table["predicted_age"]}).calibration is None
