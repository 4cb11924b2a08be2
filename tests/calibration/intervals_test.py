"""Age intervals: against a slow computation from the definition, against theory, and their coverage on new images."""

import math

import numpy as np
import pytest

import agegender as ag
from agegender.calibration import intervals


def draw_uneven(count: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Recorded ages as uneven as UTKFace's, and predictions pulled to 33 with errors that grow with age."""
    random = np.random.default_rng(seed)
    ages = np.round(random.choice([3, 15, 26, 35, 50, 65, 80], count, p=[0.1, 0.08, 0.4, 0.2, 0.1, 0.08, 0.04]))
    ages = np.clip(ages + random.integers(-4, 5, count), 0, 116).astype("float64")
    return ages, 33 + 0.75 * (ages - 33) + random.normal(size=count) * (2 + ages / 10)


def draw_even(count: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Recorded ages spread evenly, and predictions with normal errors of four years."""
    random = np.random.default_rng(seed)
    ages = np.round(random.uniform(10, 100, count))
    return ages, ages + 4 * random.normal(size=count)


def interpolate(x: float, values: list[float]) -> float:
    """Between the values at 0, 1, ..., 116."""
    index = min(int(x), 115)
    return values[index] + (x - index) * (values[index + 1] - values[index])


def slow_kernels(ages: list[float]) -> list[list[float]]:
    neighbours = min(240, len(ages) // 4)
    nearest = [sorted(abs(y - age) for age in ages)[neighbours - 1] for y in range(117)]
    widths = [min(max(width, 1), 15) for width in nearest]
    kernels = []
    for y in range(117):
        smoothing = [math.exp(-0.5 * ((y - other) / 3) ** 2) for other in range(117)]
        width = sum(s * w for s, w in zip(smoothing, widths, strict=True)) / sum(smoothing)
        kernels.append([math.exp(-0.5 * ((y - age) / width) ** 2) for age in ages])
    return kernels


def slow_fit(ages: list[float], predicted: list[float]) -> tuple[list[float], list[float]]:
    """A straight line fitted around each age by weighted least squares, and the mean distance from its value there."""
    kernels, centres = slow_kernels(ages), []
    for y, weights in enumerate(kernels):
        total = sum(weights)
        design = np.array([[1.0, age - y] for age in ages])
        gram = design.T @ (np.array(weights)[:, None] / total * design) + np.diag([0, 0.01])
        centres.append(float(np.linalg.solve(gram, design.T @ (np.array(weights) / total * predicted))[0]))
    errors = [abs(f - interpolate(age, centres)) for age, f in zip(ages, predicted, strict=True)]
    scales = [max(sum(w * e for w, e in zip(k, errors, strict=True)) / sum(k), 1e-3) for k in kernels]
    return centres, scales


def slow_intervals(ages: list[float], predicted: list[float], coverage: float) -> list[tuple[float, float]]:
    scores = [0.0] * len(ages)
    for fold in range(5):
        kept = [n for n in range(len(ages)) if n % 5 != fold]
        centres, scales = slow_fit([ages[n] for n in kept], [predicted[n] for n in kept])
        for n in range(fold, len(ages), 5):
            scores[n] = abs(predicted[n] - interpolate(ages[n], centres)) / interpolate(ages[n], scales)
    centres, scales = slow_fit(ages, predicted)
    low, high = [], []
    for y, weights in enumerate(slow_kernels(ages)):
        effective = sum(weights) ** 2 / sum(w * w for w in weights)
        level, reached = min(coverage * (1 + 1 / effective), 1), 0.0
        for score, weight in sorted(zip(scores, weights, strict=True)):  # noqa: B007
            reached += weight / sum(weights)
            if reached >= level - 1e-9:
                break
        low.append(max([centres[y] - score * scales[y], *low]))
        high.append(max([centres[y] + score * scales[y], *high]))
    found = []
    for half_years in range(233):
        f = half_years / 2
        youngest = next((y for y in range(117) if high[y] >= f), 116)  # within a year
        oldest = next((y for y in reversed(range(117)) if low[y] <= f), 0)
        found.append((min(youngest, f), max(oldest, f)))
    return found


@pytest.mark.parametrize(("count", "coverage"), [(100, 0.8), (300, 0.95)])
def test_intervals_agree_with_their_definition(count: int, coverage: float) -> None:
    ages, predicted = draw_uneven(count, seed=count)
    table, low, high = intervals.fit_intervals(ages, predicted, coverage)
    assert table.tolist() == [half_years / 2 for half_years in range(233)]
    for row, (youngest, oldest) in enumerate(slow_intervals(ages.tolist(), predicted.tolist(), coverage)):
        # The definition knows whole years only: the end is up to a year beyond.
        assert youngest - 1 - 1e-6 <= low[row] <= youngest + 1e-6, row
        assert oldest - 1e-6 <= high[row] <= oldest + 1 + 1e-6, row


def test_centre_scale_and_kernel_agree_with_a_slow_computation() -> None:
    for count in (100, 1200):
        ages, predicted = draw_uneven(count, seed=8)
        np.testing.assert_allclose(intervals._compute_kernel(ages)[::20], slow_kernels(ages.tolist())[::20], atol=1e-9)
    ages, predicted = draw_uneven(100, seed=8)
    for found, expected in zip(
        intervals._fit_centre_and_scale(ages, predicted), slow_fit(ages.tolist(), predicted.tolist()), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("coverage", [0.9, 0.95])
def test_coverage_is_nominal_at_every_recorded_age(coverage: float) -> None:
    fitted, fresh = draw_uneven(4000, seed=1), draw_uneven(20_000, seed=2)
    calibration = ag.calibrate({"age": fitted[0]}, {"age": fitted[1]}, coverage=coverage)
    low, high = calibration.intervals(fresh[1])
    inside = (low <= fresh[0]) & (fresh[0] <= high)
    assert inside.mean() == pytest.approx(coverage, abs=0.02)
    for band in range(7):
        assert inside[fresh[0] // 10 == band].mean() == pytest.approx(coverage, abs=0.05), band


def test_width_for_normal_errors() -> None:
    ages, predicted = draw_even(4000, seed=1)
    answers = np.arange(20.0, 91.0)
    low, high = ag.calibrate({"age": ages}, {"age": predicted}, coverage=0.8).intervals(answers)
    np.testing.assert_allclose(high - low, 2 * 1.2816 * 4, rtol=0.1)
    assert abs(np.mean((low + high) / 2 - answers)) < 0.2


def test_coverage_of_intervals_fitted_to_few_images() -> None:
    fresh, inside = draw_even(5000, seed=99), []
    for seed in range(40):
        ages, predicted = draw_even(100, seed=seed)
        low, high = ag.calibrate({"age": ages}, {"age": predicted}, coverage=0.8).intervals(fresh[1])
        inside.append(np.mean((low <= fresh[0]) & (fresh[0] <= high)))
    assert 0.8 < np.mean(inside) < 0.86


def test_ranges_are_inverted_by_hand() -> None:
    """Each age is predicted 10 to 20 years too young: a prediction of 40 comes from 50 to 60, and includes itself."""
    predicted, low, high = intervals._invert_ranges(intervals._RECORDED - 20, intervals._RECORDED - 10)
    at_forty = list(predicted).index(40)
    assert (low[at_forty], high[at_forty]) == pytest.approx((40, 60))
    _, low, high = intervals._invert_ranges(intervals._RECORDED + 10, intervals._RECORDED + 20)
    assert (low[at_forty], high[at_forty]) == pytest.approx((20, 40))
    assert low.min() == 0 and high.max() == 116


def test_ranges_that_fall_are_made_monotone() -> None:
    falling = np.where(intervals._RECORDED == 50, 20, intervals._RECORDED)
    predicted, low, high = intervals._invert_ranges(falling - 5, falling + 5)
    at_45 = list(predicted).index(45.5)
    assert (low[at_45], high[at_45]) == pytest.approx((40.5, 50.75), abs=0.01)
    assert np.all(np.diff(low) >= 0) and np.all(np.diff(high) >= 0)


def test_quantile_counts_the_image_to_come() -> None:
    ages, scores = np.full(99, 30.0), np.arange(1.0, 100.0)
    # ceil((99 + 1) 0.9) = 90: the 90th of 99 scores; at 0.995 no rank is high enough and the largest is taken.
    assert intervals._compute_local_quantiles(ages, scores, 0.9)[30] == 90
    assert intervals._compute_local_quantiles(ages, scores, 0.995)[30] == 99


@pytest.mark.filterwarnings("error")
def test_images_of_one_age_have_an_interval() -> None:
    low, high = ag.calibrate({"age": [30.0] * 200}, {"age": [30.0] * 200}).intervals(30.0)
    assert low <= 30 <= high


def test_intervals_of_perfect_predictions_are_the_predictions() -> None:
    ages = np.tile(np.arange(117.0), 4)
    table, low, high = intervals.fit_intervals(ages, ages, 0.9)
    assert np.abs(low - table).max() < 0.01 and np.abs(high - table).max() < 0.01


def test_kernel_is_a_year_wide_at_least_and_fifteen_at_most() -> None:
    many, few = np.repeat(np.arange(117.0), 300), np.full(400, 50.0)
    # A smoothed width of 1 and 15: the weight of a distance of one width is exp(-1 / 2).
    assert intervals._compute_kernel(many)[60, 300 * 61] == pytest.approx(np.exp(-0.5))
    assert intervals._compute_kernel(few)[116, 0] == pytest.approx(np.exp(-0.5 * (66 / 15) ** 2))


def test_tables_are_rounded_to_a_thousandth() -> None:
    ages, predicted = draw_uneven(300, seed=3)
    calibration = ag.calibrate({"age": ages}, {"age": predicted})
    assert all(round(end, 3) == end for end in (*calibration.low, *calibration.high))
    assert any(round(end, 2) != end for end in calibration.low)
