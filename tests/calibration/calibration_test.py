import json
import math
import pathlib

import numpy as np
import pytest

import agegender as ag
from agegender.calibration import intervals
from agegender.schema import CALIBRATION

STEPS = ag.Calibration(
    coverage=0.9, ages=(0.0, 50.0, 100.0), low=(0.0, 40.0, 80.0), high=(10.0, 60.0, 116.0), temperature=2.0, count=500
)


def people(count: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Recorded ages as unevenly spread as UTKFace's, and predictions pulled to 33 with errors that grow with age."""
    random = np.random.default_rng(seed)
    ages = np.round(random.choice([3, 15, 26, 35, 50, 65, 80], count, p=[0.1, 0.08, 0.4, 0.2, 0.1, 0.08, 0.04]))
    ages = np.clip(ages + random.integers(-4, 5, count), 0, 116).astype("float64")
    return ages, 33 + 0.75 * (ages - 33) + random.normal(size=count) * (2 + ages / 10)


def genders(count: int, *, sharpness: float) -> tuple[np.ndarray, np.ndarray]:
    """Genders drawn with true probabilities, and those probabilities with their logits times `sharpness`."""
    random = np.random.default_rng(4)
    logits = random.normal(size=count) * 2
    return (random.random(count) < 1 / (1 + np.exp(-logits))) * 1.0, 1 / (1 + np.exp(-sharpness * logits))


@pytest.mark.parametrize("coverage", [0.9, 0.95])
def test_intervals_keep_their_promise_for_all_and_in_every_band_of_recorded_age(coverage: float) -> None:
    fitted, fresh = people(4000, seed=1), people(20_000, seed=2)
    calibration = ag.calibrate({"age": fitted[0]}, {"age": fitted[1]}, coverage=coverage)
    low, high = calibration.intervals(fresh[1])
    inside = (low <= fresh[0]) & (fresh[0] <= high)
    assert inside.mean() == pytest.approx(coverage, abs=0.02)
    for band in range(7):
        assert inside[fresh[0] // 10 == band].mean() == pytest.approx(coverage, abs=0.05), band


def evenly(count: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Recorded ages spread evenly, and predictions with normal errors of four years, alike for all."""
    random = np.random.default_rng(seed)
    ages = np.round(random.uniform(10, 100, count))
    return ages, ages + 4 * random.normal(size=count)


def test_intervals_of_normal_errors_are_as_wide_as_the_normal_distribution_says() -> None:
    ages, predicted = evenly(4000, seed=1)
    answers = np.arange(20.0, 91.0)
    low, high = ag.calibrate({"age": ages}, {"age": predicted}, coverage=0.8).intervals(answers)
    np.testing.assert_allclose(high - low, 2 * 1.2816 * 4, rtol=0.1)
    assert abs(np.mean((low + high) / 2 - answers)) < 0.2


def test_intervals_of_few_images_keep_their_promise_on_others_too() -> None:
    fresh, inside = evenly(5000, seed=99), []
    for seed in range(40):
        ages, predicted = evenly(100, seed=seed)
        low, high = ag.calibrate({"age": ages}, {"age": predicted}, coverage=0.8).intervals(fresh[1])
        inside.append(np.mean((low <= fresh[0]) & (fresh[0] <= high)))
    assert 0.8 < np.mean(inside) < 0.86


def test_intervals_of_each_side_widen_where_predictions_are_worse() -> None:
    ages, predicted = people(4000, seed=1)
    low, high = ag.calibrate({"age": ages}, {"age": predicted}).intervals([10.0, 60.0])
    assert high[1] - low[1] > 2 * (high[0] - low[0])


def test_an_age_whose_predictions_lie_ten_to_twenty_below_is_in_the_interval_of_just_these() -> None:
    predicted, low, high = intervals._invert(intervals._RECORDED - 20, intervals._RECORDED - 10)
    at_forty = list(predicted).index(40)
    assert (low[at_forty], high[at_forty]) == pytest.approx((40, 60))  # 50 to 60, and the prediction itself
    assert high.max() <= 116 and low.min() >= 0


def test_the_quantile_counts_the_image_to_come() -> None:
    ages, scores = np.full(99, 30.0), np.arange(1.0, 100.0)
    # ceil((99 + 1) 0.9) = 90: of 99 scores the 90th; at 0.995 no rank is high enough and the largest is taken.
    assert intervals._local_quantiles(ages, scores, 0.9)[30] == 90
    assert intervals._local_quantiles(ages, scores, 0.995)[30] == 99


def test_tables_rise_and_hold_the_prediction() -> None:
    ages, predicted = people(300, seed=3)
    table, low, high = intervals.age_tables(ages, predicted, 0.95)
    assert np.all(np.diff(low) >= 0) and np.all(np.diff(high) >= 0)
    assert np.all((low >= 0) & (low <= table) & (table <= high) & (high <= 116))


def test_between_rows_intervals_are_interpolated_and_outside_they_are_the_ends() -> None:
    low, high = STEPS.intervals([[25.0], [-3.0], [140.0]])
    assert low.tolist() == [[20], [0], [80]] and high.tolist() == [[35], [10], [116]]


@pytest.mark.parametrize("sharpness", [3.0, 0.5])
def test_the_temperature_undoes_what_made_probabilities_too_sure_or_too_shy(sharpness: float) -> None:
    recorded, p_female = genders(20_000, sharpness=sharpness)
    assert ag.calibrate({"gender": recorded}, {"gender": p_female}).temperature == pytest.approx(sharpness, rel=0.06)


def test_a_temperature_of_two_halves_the_logit_and_keeps_the_decision() -> None:
    p_female = np.array([0.0, 0.2, np.nextafter(np.float32(0.5), np.float32(0)), 0.5, 0.8, 1.0])
    calibrated = STEPS.probabilities(p_female)
    assert calibrated[4] == pytest.approx(2 / 3)  # odds of 4 become odds of 2
    assert np.all((calibrated >= 0.5) == (p_female >= 0.5)) and calibrated[3] == 0.5


def test_genders_that_are_never_wrong_give_a_finite_temperature() -> None:
    recorded = np.arange(200) % 2
    assert 0 < ag.calibrate({"gender": recorded}, {"gender": recorded * 1.0}).temperature < 1


@pytest.mark.parametrize("column", [False, True])
def test_one_head_or_two_as_rows_or_columns(column: bool) -> None:
    ages, predicted = people(400, seed=1)
    recorded, p_female = genders(400, sharpness=2)
    shape = (-1, 1) if column else (-1,)
    targets = {"age": ages.reshape(shape), "gender": recorded.reshape(shape)}
    outputs = {"age": predicted.reshape(shape), "gender": p_female.reshape(shape)}
    both = ag.calibrate(targets, outputs)
    age, gender = (ag.calibrate(targets, {head: outputs[head]}) for head in ("age", "gender"))
    assert (both.low, both.temperature, both.count) == (age.low, gender.temperature, 400)
    with pytest.raises(ValueError, match="needs a calibration of an age head"):
        gender.intervals(30)
    with pytest.raises(ValueError, match="needs a calibration of a gender head"):
        age.probabilities(0.5)


def test_a_calibration_is_found_beside_its_model_and_is_what_was_saved(tmp_path: pathlib.Path) -> None:
    assert ag.load_calibration(tmp_path) is None
    STEPS.save(tmp_path)
    (tmp_path / "best.keras").touch()
    for path in (tmp_path, str(tmp_path / CALIBRATION), tmp_path / "best.keras"):
        assert ag.load_calibration(path) == STEPS
    assert ag.load_calibration(tmp_path / "last.keras") is None  # it is not that model's


def test_a_model_under_another_name_that_is_alone_has_the_calibration_beside_it(tmp_path: pathlib.Path) -> None:
    STEPS.save(tmp_path)
    assert ag.load_calibration(tmp_path / "theirs.keras") == STEPS


def test_ninety_five_in_a_hundred_are_promised_by_default_without_a_mirror_image() -> None:
    calibration = ag.calibrate({"age": [30.0] * 200}, {"age": [30.0] * 200})
    assert (calibration.coverage, calibration.flip) == (0.95, False)


def test_a_calibration_of_one_head_survives_its_file(tmp_path: pathlib.Path) -> None:
    alone = ag.Calibration(coverage=0.8, ages=None, low=None, high=None, temperature=1.5, count=100, flip=True)
    alone.save(tmp_path)
    assert ag.load_calibration(tmp_path) == alone


GOOD = {"version": 1, "coverage": 0.9, "ages": [0, 1], "low": [0, 1], "high": [2, 3], "temperature": 1, "count": 100,
        "flip": False}  # fmt: skip


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{",
        json.dumps(GOOD)[:-9],
        *(
            json.dumps({**GOOD, **change})
            for change in (
                {"version": 2}, {"coverage": 1.5}, {"coverage": None}, {"low": [0]}, {"low": None}, {"low": ["x", 1]},
                {"low": [3, 3]}, {"high": [2, 999]}, {"high": [2, math.nan]}, {"ages": [1, 1]}, {"ages": []},
                {"temperature": 0}, {"temperature": math.inf}, {"more": 1},
                {"flip": "yes"}, {"count": -3}, {"count": "many"},
            )
        ),
    ],
)  # fmt: skip
def test_a_damaged_file_is_named(tmp_path: pathlib.Path, content: str) -> None:
    (tmp_path / CALIBRATION).write_text(content)
    with pytest.raises(ValueError, match=r"calibration\.json is no calibration: .*experiments\.calibrate"):
        ag.load_calibration(tmp_path)


@pytest.mark.parametrize(
    ("targets", "outputs", "words"),
    [
        ({"age": [30.0] * 99}, {"age": [30.0] * 99}, "100 images or more. Received: 99"),
        ({"age": [30.0] * 200}, {"age": [30.0] * 201}, r"one length. Received lengths: \[200, 201\]"),
        ({"age": [30.0] * 200}, {"age": [math.nan] * 200}, "`outputs` must hold finite ages.*'age'"),
        ({"age": [math.nan] * 200}, {"age": [30.0] * 200}, r"`targets` must hold ages in 0\.\.116.*'age'"),
        ({"age": [117.0] * 200}, {"age": [30.0] * 200}, r"`targets` must hold ages in 0\.\.116.*'age'"),
        ({"gender": [1.0] * 200}, {"gender": [1.1] * 200}, "probabilities.*'gender'"),
        ({"gender": [0.5] * 200}, {"gender": [0.5] * 200}, "genders 0 or 1.*'gender'"),
        ({"age": [30.0] * 200}, {"gender": [0.5] * 200}, "must hold the heads of `outputs`"),
        ({"age": [30.0] * 200}, {}, "must hold the heads of `outputs`"),
    ],
)
def test_answers_that_cannot_be_calibrated_are_named(targets: dict, outputs: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ag.calibrate(targets, outputs)


@pytest.mark.parametrize("coverage", [0, 1, 95, math.nan])
def test_a_coverage_that_is_no_share_is_named(coverage: float) -> None:
    with pytest.raises(ValueError, match=f"`coverage` must be between 0 and 1. Received: coverage={coverage}"):
        ag.calibrate({"age": [30.0] * 200}, {"age": [30.0] * 200}, coverage=coverage)


@pytest.mark.filterwarnings("error")
def test_images_of_one_age_only_give_tables_all_the_same() -> None:
    calibration = ag.calibrate({"age": [30.0] * 200}, {"age": [30.0] * 200})
    low, high = calibration.intervals(30.0)
    assert low <= 30 <= high
