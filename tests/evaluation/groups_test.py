import numpy as np
import pytest

from agegender.evaluation import groups, metrics


def faces(count: int = 400, seed: int = 0) -> dict[str, np.ndarray]:
    """Labels of all groups, guessed well but for the ages of Asian faces and the genders of children."""
    random = np.random.default_rng(seed)
    ages, genders = random.integers(0, 100, count).astype("float32"), random.integers(0, 2, count).astype("float32")
    races = random.integers(0, 5, count).astype("float32")
    errors = random.normal(0, 3, count) + 8 * (races == 2)
    sure = np.where(ages < 10, 0.1, 2) * (2 * genders - 1) + random.normal(0, 1, count)
    return {
        **{"age": ages, "gender": genders, "race": races},
        **{"predicted_age": (ages + errors).astype("float32"), "p_female": 1 / (1 + np.exp(-sure))},
    }


def measured(table: dict[str, np.ndarray]) -> dict[str, dict[str, groups.Measured]]:
    return groups.by_group(table, metrics.resample(np.arange(len(table["age"]))))


def test_the_groups_of_an_attribute_hold_every_image_once() -> None:
    parts = groups.partition(faces())
    assert list(parts) == ["age", "gender", "race", "age x gender", "age x race", "gender x race"]
    for attribute, rows in parts.items():
        np.testing.assert_array_equal(np.sum(list(rows.values()), axis=0), 1, err_msg=attribute)


def test_groups_that_nobody_belongs_to_and_attributes_that_nobody_recorded_are_left_out() -> None:
    assert groups.partition({"race": np.array([1.0, 4.0])}).keys() == {"race"}
    assert list(groups.partition({"race": np.array([1.0, 4.0])})["race"]) == ["Black", "Others"]


def test_a_group_is_measured_as_if_it_were_alone() -> None:
    table = faces()
    rows = (table["race"] == 3) & (table["gender"] == 1)
    part = measured(table)["gender x race"]["female, Indian"]
    assert part.count == rows.sum()
    assert part.model["mae"] == metrics.mean_absolute_error(table["age"][rows], table["predicted_age"][rows])
    low, high = part.intervals["mae"]
    assert low < part.model["mae"] < high


def test_a_group_is_resampled_by_the_weights_of_its_own_images() -> None:
    table, rows = faces(), faces()["race"] == 3
    weights = metrics.resample(np.arange(400), repetitions=50)
    expected = metrics.bias(table["age"][rows], table["predicted_age"][rows], weights=weights[:, rows])
    np.testing.assert_allclose(groups.measure_some(table, weights, rows).drawn["bias"], expected)


def test_the_auc_of_one_gender_is_none() -> None:
    parts = measured(faces())
    assert parts["gender"]["male"].model["auc"] is None and parts["gender"]["male"].intervals["auc"] is None
    assert parts["race"]["White"].model["auc"] > 0.5


def test_fewer_than_ten_images_have_a_value_and_no_interval() -> None:
    table = {key: column[:19] for key, column in faces().items()} | {"race": np.array([0.0] * 9 + [1.0] * 10)}
    white, black = measured(table)["race"].values()
    assert white.model["mae"] > 0 and set(white.intervals.values()) == {None}
    assert black.intervals["mae"] is not None


def test_the_gap_finds_the_group_that_is_guessed_worse() -> None:
    parts = measured(faces())
    gap = groups.find_gaps(parts)["race"]["mae"]
    race = parts["race"]
    assert gap.worst == "Asian" and gap.best == min(race, key=lambda name: race[name].model["mae"])
    assert gap.difference == race["Asian"].model["mae"] - race[gap.best].model["mae"]
    assert 3 < gap.interval[0] < gap.difference < gap.interval[1]
    assert groups.find_gaps(parts)["age"]["gender_accuracy"].worst == "0-9"


def test_the_best_bias_is_the_one_nearest_to_zero_and_the_difference_keeps_its_sign() -> None:
    table = faces() | {"race": np.repeat([0.0, 1.0], 200)}
    table["predicted_age"] = table["age"] + np.where(table["race"] == 0, 2.0, -5.0)
    gap = groups.find_gaps(measured(table))["race"]["bias"]
    assert (gap.best, gap.worst) == ("White", "Black") and gap.difference == pytest.approx(-7, abs=1e-4)


def test_the_worst_group_has_the_largest_errors_and_the_smallest_shares() -> None:
    random, races = np.random.default_rng(1), np.repeat([0.0, 1.0], 200)
    genders = np.tile([0.0, 1.0], 200)
    spread = np.where(races == 1, 12, 2)  # Black faces are guessed worse in every way
    table = {"race": races, "age": np.full(400, 40.0), "gender": genders}
    table["predicted_age"] = 41 + spread / 2 + random.normal(size=400) * spread
    table["p_female"] = 1 / (1 + np.exp(random.normal(size=400) * spread / 4 - 2 * (2 * genders - 1)))
    for key, gap in groups.find_gaps(measured(table))["race"].items():
        assert (gap.best, gap.worst) == ("White", "Black"), key
        assert (gap.difference < 0) == (key in ("cs5", "gender_accuracy", "auc")), key


def test_groups_of_fewer_than_thirty_make_no_gap() -> None:
    table = faces() | {"race": np.array([0.0] * 371 + [1.0] * 29)}
    assert groups.find_gaps(measured(table))["race"] == {}
    table["race"][370] = 1
    assert groups.find_gaps(measured(table))["race"]["mae"].difference > 0


AGES = np.array([20.0, 30.0])


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"age": AGES}, "must hold 'predicted_age' or 'p_female'"),
        ({"predicted_age": AGES}, "'predicted_age' needs 'age'"),
        ({"age": AGES, "predicted_age": AGES, "age_low": AGES}, "'age_low' needs 'age_high'"),
        ({"age": AGES, "predicted_age": AGES[:1]}, "as many values each"),
        ({"age": AGES[:0], "predicted_age": AGES[:0]}, "at least one"),
        ({"age": AGES, "predicted_age": np.array([20.0, np.nan])}, r"in \[-1000, 1000\]. Received: nan"),
        ({"gender": np.array([0.0]), "p_female": np.array([1.2])}, r"'p_female' must be in \[0, 1\]. Received: 1.2"),
        ({"gender": np.array([2.0]), "p_female": np.array([0.2])}, "'gender' must be in"),
        ({"gender": np.array([0.5]), "p_female": np.array([0.2])}, "'gender' must hold codes. Received: 0.5"),
        (
            {"age": AGES, "predicted_age": AGES, "race": np.array([0.0, 5.0])},
            r"'race' must be in \[0, 4\]. Received: 5",
        ),
        ({"age": AGES, "predicted_age": AGES, "race": np.array([0.0, 1.5])}, "'race' must hold codes. Received: 1.5"),
        ({"age": AGES, "predicted_age": AGES, "age_low": AGES, "age_high": AGES * np.nan}, "'age_high' must be in"),
        (
            {"gender": np.array([0.0]), "p_female": np.array([0.2]), "p_female_calibrated": np.array([-0.1])},
            r"'p_female_calibrated' must be in \[0, 1\]. Received: -0.1",
        ),
    ],
)
def test_a_table_that_cannot_be_measured_is_refused(table: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        groups.check_table(table)
