import numpy as np
import pytest
from prediction_tables import make_table

from agegender.evaluation import groups, metrics


def measure(table: dict[str, np.ndarray]) -> dict[str, dict[str, groups.GroupMetrics]]:
    return groups.measure_groups(table, metrics.resample(np.arange(len(next(iter(table.values()))))))


def test_groups_are_those_of_the_labels() -> None:
    table = {"age": np.array([9.9, 10, 80, 7]), "gender": np.array([0.0, 1, 1, 1]), "race": np.array([4.0, 1, 1, 4])}
    found = groups.find_groups(table)
    assert list(found) == ["age", "gender", "race", "age x gender", "age x race", "gender x race"]
    assert {name: np.flatnonzero(rows).tolist() for name, rows in found["age"].items()} == {
        **{"0-9": [0, 3], "10-19": [1], "80+": [2]}
    }
    assert {name: np.flatnonzero(rows).tolist() for name, rows in found["gender x race"].items()} == {
        **{"male, Others": [0], "female, Black": [1, 2], "female, Others": [3]}
    }


def test_group_is_measured_like_a_table_of_its_rows() -> None:
    table = make_table()
    rows = (table["race"] == 3) & (table["gender"] == 1)
    group = measure(table)["gender x race"]["female, Indian"]
    expected = groups.compute_metrics({key: column[rows] for key, column in table.items()})
    assert group.count == rows.sum() and np.isnan(expected.pop("auc"))
    assert group.metrics == {**expected, "auc": None} and group.intervals["auc"] is None
    assert set(expected) == {"mae", "rmse", "median_error", "bias", "cs5", "gender_accuracy", "log_loss"}
    low, high = group.intervals["mae"]
    assert low < group.metrics["mae"] < high


def test_group_is_resampled_by_the_weights_of_its_own_images() -> None:
    table, rows = make_table(), make_table()["race"] == 3
    weights = metrics.resample(np.arange(400), repetitions=50)
    samples = groups.measure_rows(table, weights, rows).samples["bias"]
    np.testing.assert_allclose(
        samples, metrics.bias(table["age"][rows], table["predicted_age"][rows], weights=weights[:, rows])
    )
    assert groups.measure_rows(table, weights, rows).intervals["bias"] == metrics.interval(samples)


def test_fewer_than_ten_images_have_no_interval() -> None:
    table = {key: column[:19] for key, column in make_table().items()} | {"race": np.array([0.0] * 9 + [1.0] * 10)}
    white, black = measure(table)["race"].values()
    assert white.metrics["mae"] > 0 and set(white.intervals.values()) == {None}
    assert black.intervals["mae"] is not None


def test_best_bias_is_the_one_nearest_to_zero() -> None:
    table = {"age": np.full(400, 40.0), "race": np.repeat([0.0, 1.0], 200)}
    table["predicted_age"] = table["age"] + np.where(table["race"] == 0, 2.0, -5.0)
    assert groups.find_gaps(measure(table))["race"]["bias"] == groups.Gap("White", "Black", -7.0, None)


def test_gaps_by_hand() -> None:
    """White faces have errors of 2 and 4 years, Black faces of 4 and 8; of their genders 75 % and 50 % are right."""
    races, genders = np.repeat([0.0, 1.0], 40), np.tile([0.0, 0.0, 1.0, 1.0], 20)
    p_female = np.where(races == 0, np.tile([0.2, 0.8, 0.8, 0.8], 20), np.tile([0.2, 0.8, 0.2, 0.8], 20))
    errors = np.where(races == 0, np.tile([2.0, 4.0], 40), np.tile([4.0, 8.0], 40))
    table = {"race": races, "gender": genders, "p_female": p_female, "age": np.full(80, 40.0)}
    measured = measure(table | {"predicted_age": table["age"] + errors})
    gaps, samples = groups.find_gaps(measured)["race"], [part.samples["mae"] for part in measured["race"].values()]
    assert gaps["mae"].interval == tuple(np.quantile(samples[1] - samples[0], [0.025, 0.975]))
    assert {(gap.best, gap.worst) for gap in gaps.values()} == {("White", "Black")}
    assert {key: gap.difference for key, gap in gaps.items()} == pytest.approx(
        {
            **{"mae": 3, "rmse": np.sqrt(40) - np.sqrt(10), "median_error": 3, "bias": 3, "cs5": -0.5},
            **{"gender_accuracy": -0.25, "auc": 0.5 - 0.75},
            "log_loss": -(np.log(0.8) + np.log(0.2)) / 2 + (3 * np.log(0.8) + np.log(0.2)) / 4,
        }
    )


def test_groups_of_fewer_than_thirty_make_no_gap() -> None:
    table = make_table() | {"race": np.array([0.0] * 371 + [1.0] * 29)}
    assert groups.find_gaps(measure(table))["race"] == {}
    table["race"][370] = 1
    assert groups.find_gaps(measure(table))["race"]["mae"].difference > 0
