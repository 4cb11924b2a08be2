"""Each measure by hand, against scikit-learn or a plain loop on random input, and with bootstrap weights."""

import numpy as np
import pytest
import sklearn.metrics

from agegender.evaluation import metrics

AGES, PREDICTED = [1, 20, 60, 90], [4, 20, 55, 80]  # errors 3, 0, -5, -10
GENDERS, PROBABILITIES = [0, 1, 1, 0, 1], [0.1, 0.9, 0.4, 0.4, 0.95]

RANDOM = np.random.default_rng(0)
RANDOM_AGES = RANDOM.integers(0, 100, 501)
RANDOM_PREDICTED = RANDOM_AGES + np.round(RANDOM.normal(size=501) * 6, 1)
RANDOM_GENDERS = RANDOM.integers(0, 2, 501)
RANDOM_PROBABILITIES = np.round(RANDOM.random(501), 2)  # with ties, and some of exactly 0, 0.5 and 1


def test_age_measures_by_hand() -> None:
    assert metrics.mean_absolute_error(AGES, PREDICTED) == 4.5
    assert metrics.root_mean_squared_error(AGES, PREDICTED) == pytest.approx(np.sqrt((9 + 0 + 25 + 100) / 4))
    assert metrics.median_absolute_error(AGES, PREDICTED) == 4.0
    assert metrics.median_absolute_error(AGES[:3], PREDICTED[:3]) == 3.0
    assert metrics.bias(AGES, PREDICTED) == -3.0
    assert metrics.bias([10], [12]) == 2.0


def test_age_measures_agree_with_scikit_learn() -> None:
    ages = RANDOM_AGES, RANDOM_PREDICTED
    assert metrics.mean_absolute_error(*ages) == pytest.approx(sklearn.metrics.mean_absolute_error(*ages))
    assert metrics.root_mean_squared_error(*ages) == pytest.approx(sklearn.metrics.root_mean_squared_error(*ages))
    assert metrics.median_absolute_error(*ages) == pytest.approx(sklearn.metrics.median_absolute_error(*ages))
    assert metrics.bias(*ages) == pytest.approx(sum(p - a for a, p in zip(*ages, strict=True)) / 501)


@pytest.mark.parametrize(("years", "share"), [(0, 0.25), (2.9, 0.25), (3, 0.5), (5, 0.75), (9.9, 0.75), (10, 1.0)])
def test_cumulative_score_includes_its_edge(years: float, share: float) -> None:
    assert metrics.cumulative_score(AGES, PREDICTED, years=years) == share
    assert metrics.cumulative_score(AGES, PREDICTED) == 0.75  # of five years


def test_probability_of_one_half_counts_as_female() -> None:
    assert metrics.gender_accuracy([1, 0, 0, 1], [0.5, 0.5, 0.49, 1.0]) == 0.75


def test_auc_by_hand() -> None:
    # 3 women, 2 men: of six pairs five are in order, and 0.4 against 0.4 is a tie.
    assert metrics.area_under_curve(GENDERS, PROBABILITIES) == pytest.approx(5.5 / 6)
    assert metrics.area_under_curve([0, 1], [0.5, 0.5]) == 0.5
    assert metrics.area_under_curve([1, 0], [0.1, 0.2]) == 0
    assert np.isnan(metrics.area_under_curve([1, 1], [0.2, 0.3]))
    assert np.isnan(metrics.area_under_curve([0], [0.2]))


def test_log_loss_by_hand() -> None:
    assert metrics.log_loss([1, 0], [0.8, 0.4]) == pytest.approx(-(np.log(0.8) + np.log(0.6)) / 2)
    assert metrics.log_loss([1], [0.0]) == pytest.approx(-np.log(1e-7))
    assert metrics.log_loss([1], [1.0]) == pytest.approx(1e-7, rel=1e-3)


def test_gender_measures_agree_with_scikit_learn() -> None:
    genders = RANDOM_GENDERS, RANDOM_PROBABILITIES
    accuracy = sklearn.metrics.accuracy_score(RANDOM_GENDERS, RANDOM_PROBABILITIES >= 0.5)
    assert metrics.gender_accuracy(*genders) == pytest.approx(accuracy)
    assert metrics.area_under_curve(*genders) == pytest.approx(sklearn.metrics.roc_auc_score(*genders))
    clipped = np.clip(RANDOM_PROBABILITIES, 1e-7, 1 - 1e-7)
    assert metrics.log_loss(*genders) == pytest.approx(sklearn.metrics.log_loss(RANDOM_GENDERS, clipped))


def test_calibration_error_by_hand() -> None:
    genders, probabilities = [0, 0, 1, 1], [0.05, 0.15, 0.15, 1.0]  # in bins 0, 1, 1 and 9
    assert metrics.calibration_error(genders, probabilities) == pytest.approx((0.05 + 2 * 0.35 + 0) / 4)
    assert metrics.reliability(genders, probabilities) == [
        {"low": 0.0, "high": 0.1, "count": 1, "predicted": 0.05, "observed": 0.0},
        {"low": 0.1, "high": 0.2, "count": 2, "predicted": 0.15, "observed": 0.5},
        {"low": 0.9, "high": 1.0, "count": 1, "predicted": 1.0, "observed": 1.0},
    ]


def test_calibration_error_agrees_with_a_loop() -> None:
    bins: dict[int, list[tuple[float, int]]] = {}
    for gender, probability in zip(RANDOM_GENDERS, RANDOM_PROBABILITIES, strict=True):
        bins.setdefault(min(int(probability * 10), 9), []).append((probability, gender))
    expected = sum(abs(sum(p for p, _ in some) - sum(g for _, g in some)) for some in bins.values()) / 501
    assert metrics.calibration_error(RANDOM_GENDERS, RANDOM_PROBABILITIES) == pytest.approx(expected)
    found = metrics.reliability(RANDOM_GENDERS, RANDOM_PROBABILITIES)
    assert [each["count"] for each in found] == [len(bins[index]) for index in range(10)]


def test_coverage_includes_both_ends() -> None:
    assert metrics.coverage([10, 20, 30, 40], [10, 10, 31, 39], [12, 20, 40, 39.9]) == 0.5


MEASURES = [
    (metrics.mean_absolute_error, AGES, PREDICTED),
    (metrics.root_mean_squared_error, AGES, PREDICTED),
    (metrics.median_absolute_error, AGES, PREDICTED),
    (metrics.bias, AGES, PREDICTED),
    (metrics.cumulative_score, AGES, PREDICTED),
    (metrics.gender_accuracy, GENDERS, PROBABILITIES),
    (metrics.area_under_curve, GENDERS, PROBABILITIES),
    (metrics.log_loss, GENDERS, PROBABILITIES),
    (metrics.calibration_error, GENDERS, PROBABILITIES),
    (lambda ages, low, weights=None: metrics.coverage(ages, low, np.add(low, 5), weights=weights), AGES, PREDICTED),
]


@pytest.mark.parametrize(("measure", "labels", "predictions"), MEASURES)
def test_weight_counts_an_image_as_often_as_repeating_it(measure, labels: list, predictions: list) -> None:
    weights = np.random.default_rng(0).integers(0, 4, (30, len(labels)))
    weights[:, 0] += 1  # at least one image
    repeated = [measure(np.repeat(labels, row), np.repeat(predictions, row)) for row in weights]
    np.testing.assert_allclose(measure(labels, predictions, weights=weights), repeated)


@pytest.mark.parametrize(("measure", "labels", "predictions"), MEASURES)
@pytest.mark.filterwarnings("error")
def test_sample_without_an_image_has_no_value(measure, labels: list, predictions: list) -> None:
    weights = np.array([[0] * len(labels), [1] * len(labels)])
    empty, full = measure(labels, predictions, weights=weights)
    assert np.isnan(empty) and full == pytest.approx(measure(labels, predictions))


def test_columns_and_rows_are_paired_and_not_broadcast() -> None:
    assert metrics.mean_absolute_error(np.array([[1.0], [5.0]]), np.array([2.0, 5.0])) == 0.5


@pytest.mark.parametrize(("labels", "predictions"), [([1, 2], [1]), ([], [])])
def test_unequal_and_empty_arrays_are_refused(labels: list, predictions: list) -> None:
    with pytest.raises(ValueError, match=f"Received: {len(predictions)} and {len(labels)}"):
        metrics.mean_absolute_error(labels, predictions)


def test_bootstrap_draws_as_many_units_as_there_are() -> None:
    weights = metrics.resample(np.arange(50), repetitions=2000)
    assert weights.shape == (2000, 50) and (weights.sum(-1) == 50).all()
    assert weights.mean(0) == pytest.approx(1, abs=0.12)
    assert weights.var() == pytest.approx(1 - 1 / 50, abs=0.03)  # binomial: 50 draws of probability 1/50


def test_bootstrap_draws_a_photograph_as_a_whole() -> None:
    weights = metrics.resample(["a", "b", "a", "c"], repetitions=20)
    np.testing.assert_array_equal(weights[:, 0], weights[:, 2])
    assert (weights[:, [0, 1, 3]].sum(-1) == 3).all()


def test_bootstrap_is_a_function_of_the_seed() -> None:
    first, again, other = (metrics.resample(np.arange(9), repetitions=3, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    np.testing.assert_array_equal(metrics.resample(np.arange(9)), metrics.resample(range(9), repetitions=1000, seed=0))


def test_interval_of_a_mean_agrees_with_the_normal_distribution() -> None:
    values = np.random.default_rng(0).normal(10, 3, 400)
    samples = metrics.mean_absolute_error(np.zeros(400), values, weights=metrics.resample(np.arange(400)))
    half = 1.96 * values.std() / np.sqrt(400)
    assert metrics.interval(samples) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)


def test_interval_by_hand() -> None:
    assert metrics.interval([np.nan, *range(41), np.inf]) == (1.0, 39.0)


@pytest.mark.parametrize("values", [[], [np.nan], [1.0, 1.0, 1.0]])
def test_no_interval_from_constant_or_missing_samples(values: list) -> None:
    assert metrics.interval(values) is None
