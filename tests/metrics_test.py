import numpy as np
import pytest

from agegender import metrics

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
