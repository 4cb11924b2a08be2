import numpy as np
import pytest

from agegender.evaluation import metrics

AGES, PREDICTED = [1, 20, 60, 90], [4, 20, 55, 80]  # errors 3, 0, 5, 10


def test_mean_absolute_error_by_hand() -> None:
    assert metrics.mean_absolute_error(AGES, PREDICTED) == 4.5


def test_root_mean_squared_error_by_hand() -> None:
    assert metrics.root_mean_squared_error(AGES, PREDICTED) == pytest.approx(np.sqrt((9 + 0 + 25 + 100) / 4))


@pytest.mark.parametrize(("years", "share"), [(0, 0.25), (2.9, 0.25), (3, 0.5), (5, 0.75), (10, 1.0)])
def test_the_cumulative_score_counts_its_edge_as_within(years: float, share: float) -> None:
    assert metrics.cumulative_score(AGES, PREDICTED, years=years) == share


def test_one_half_counts_as_female() -> None:
    assert metrics.gender_accuracy([1, 0, 0, 1], [0.5, 0.5, 0.49, 1.0]) == 0.75


def test_columns_and_rows_are_paired_and_not_broadcast() -> None:
    assert metrics.mean_absolute_error(np.array([[1.0], [5.0]]), np.array([2.0, 5.0])) == 0.5


@pytest.mark.parametrize(("labels", "predictions"), [([1, 2], [1]), ([], [])])
def test_unequal_and_empty_answers_are_refused(labels: list, predictions: list) -> None:
    with pytest.raises(ValueError, match="as many predictions as labels"):
        metrics.mean_absolute_error(labels, predictions)


GENDERS, PROBABILITIES = [0, 1, 1, 0, 1], [0.1, 0.9, 0.4, 0.4, 0.95]


def test_median_error_by_hand() -> None:
    assert metrics.median_absolute_error(AGES, PREDICTED) == 4.0
    assert metrics.median_absolute_error(AGES[:3], PREDICTED[:3]) == 3.0


def test_bias_is_positive_where_faces_are_guessed_too_old() -> None:
    assert metrics.bias(AGES, PREDICTED) == (3 + 0 - 5 - 10) / 4
    assert metrics.bias([10], [12]) == 2.0


def test_auc_counts_pairs_and_half_a_pair_for_a_tie() -> None:
    # 3 women, 2 men: of six pairs five are in order, and 0.4 against 0.4 is a tie.
    assert metrics.area_under_curve(GENDERS, PROBABILITIES) == pytest.approx(5.5 / 6)
    assert metrics.area_under_curve([0, 1], [0.5, 0.5]) == 0.5 and metrics.area_under_curve([1, 0], [0.1, 0.2]) == 0


def test_auc_of_one_gender_is_not_a_number() -> None:
    assert np.isnan(metrics.area_under_curve([1, 1], [0.2, 0.3]))
    assert np.isnan(metrics.area_under_curve([0], [0.2]))


def test_log_loss_by_hand_and_finite_where_the_model_was_sure_and_wrong() -> None:
    assert metrics.log_loss([1, 0], [0.8, 0.4]) == pytest.approx(-(np.log(0.8) + np.log(0.6)) / 2)
    assert metrics.log_loss([1], [0.0]) == pytest.approx(-np.log(1e-7))


def test_calibration_error_weighs_the_gaps_of_the_bins_by_their_images() -> None:
    genders, probabilities = [0, 0, 1, 1], [0.05, 0.15, 0.15, 1.0]  # bins: 0 | 0, 1 | 1
    assert metrics.calibration_error(genders, probabilities) == pytest.approx((0.05 + 2 * 0.35 + 0) / 4)
    bins = metrics.reliability(genders, probabilities)
    assert [(b["low"], b["count"], b["observed"]) for b in bins] == [(0.0, 1, 0.0), (0.1, 2, 0.5), (0.9, 1, 1.0)]


def test_coverage_includes_both_ends() -> None:
    assert metrics.coverage([10, 20, 30], [10, 10, 31], [12, 20, 40]) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("measure", "labels", "answers"),
    [
        (metrics.mean_absolute_error, AGES, PREDICTED),
        (metrics.root_mean_squared_error, AGES, PREDICTED),
        (metrics.median_absolute_error, AGES, PREDICTED),
        (metrics.bias, AGES, PREDICTED),
        (metrics.cumulative_score, AGES, PREDICTED),
        (metrics.gender_accuracy, GENDERS, PROBABILITIES),
        (metrics.area_under_curve, GENDERS, PROBABILITIES),
        (metrics.log_loss, GENDERS, PROBABILITIES),
        (metrics.calibration_error, GENDERS, PROBABILITIES),
    ],
)
def test_a_weight_counts_a_image_as_often_as_if_it_were_there_so_often(measure, labels: list, answers: list) -> None:
    weights = np.random.default_rng(0).integers(0, 4, (30, len(labels)))
    weights[:, 0] += 1  # at least one image
    repeated = [measure(np.repeat(labels, row), np.repeat(answers, row)) for row in weights]
    np.testing.assert_allclose(measure(labels, answers, weights=weights), repeated)


def test_coverage_counts_by_weight_too() -> None:
    weights = np.array([[3, 1], [1, 0]])
    assert metrics.coverage([10, 20], [0, 30], [15, 40], weights=weights).tolist() == [0.75, 1.0]


def test_resampling_draws_as_many_units_as_there_are_and_keeps_a_photograph_together() -> None:
    alone = metrics.resample(np.arange(50), repetitions=20)
    assert alone.shape == (20, 50) and (alone.sum(-1) == 50).all() and alone.std() > 0.5
    copies = metrics.resample(["a", "b", "a", "c"], repetitions=20)
    np.testing.assert_array_equal(copies[:, 0], copies[:, 2])
    assert (copies[:, [0, 1, 3]].sum(-1) == 3).all()


def test_the_seed_alone_decides_what_is_drawn() -> None:
    first, again, other = (metrics.resample(np.arange(9), repetitions=3, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_interval_of_a_mean_is_that_of_the_textbook() -> None:
    values = np.random.default_rng(0).normal(10, 3, 400)
    drawn = metrics.mean_absolute_error(np.zeros(400), values, weights=metrics.resample(np.arange(400)))
    low, high = metrics.interval(drawn)
    half = 1.96 * values.std() / np.sqrt(400)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)


def test_an_interval_leaves_out_the_rows_without_a_value() -> None:
    assert metrics.interval([np.nan, *range(41)]) == (1.0, 39.0)
    assert metrics.interval([np.nan]) is None


def test_rows_that_all_agree_make_no_interval() -> None:
    assert metrics.interval([1.0, 1.0, 1.0]) is None
