"""The plots of a report."""

import numpy as np
import pytest
from matplotlib.axes import Axes
from report_test import make_predictions

import agegender as ag
from agegender.evaluation import plots
from agegender.evaluation.groups import AGE_BANDS


@pytest.fixture(scope="module")
def report() -> ag.Report:
    return ag.measure(make_predictions(), nominal_coverage=0.9)


def draw(report: ag.Report, name: str) -> list[Axes]:
    functions = {"ages": plots._draw_ages, "curve": plots._draw_curve, "errors": plots._draw_errors}
    return functions[name](report).axes


def read_error_bars(axes: Axes) -> list[tuple[float, float, float, float]]:
    """x, y, low and high of each point with an error bar; NaN without one."""
    points = []
    for container in axes.containers:
        line, _, bars = container
        segments = bars[0].get_segments() if bars else []
        for index, (x, y) in enumerate(line.get_xydata()):
            ends = segments[index][:, 1] if segments else (np.nan, np.nan)
            points.append((x, y, *ends))
    return points


def test_ages_are_drawn_with_the_mean_of_each_band(report: ag.Report) -> None:
    table = report.predictions
    (axes,) = draw(report, "ages")
    np.testing.assert_array_equal(
        axes.collections[0].get_offsets(), np.stack([table["age"], table["predicted_age"]], 1)
    )
    diagonal, means = axes.lines
    end = max(100, table["predicted_age"].max())
    assert diagonal.get_xydata().tolist() == [[0, 0], [end, end]]
    bands = [min(int(age) // 10, 8) for age in table["age"]]
    for band, point in enumerate(means.get_xydata()):
        rows = [row for row, each in enumerate(bands) if each == band]
        assert point == pytest.approx([np.mean(table["age"][rows]), np.mean(table["predicted_age"][rows])])
    assert band == 8


def test_curve_is_drawn_with_its_interval(report: ag.Report) -> None:
    (axes,) = draw(report, "curve")
    assert axes.lines[0].get_xydata().tolist() == [[point["years"], point["value"]] for point in report.curve]
    corners = set(map(tuple, axes.collections[0].get_paths()[0].vertices.tolist()))
    assert {(point["years"], end) for point in report.curve for end in point["interval"] or ()} <= corners


def test_errors_are_drawn_by_band_and_gender(report: ag.Report) -> None:
    for axes, key in zip(draw(report, "errors"), ("mae", "bias"), strict=True):
        drawn = {round(x, 3): (y, low, high) for x, y, low, high in read_error_bars(axes)}
        crossed = report.groups["age x gender"]
        assert len(drawn) == len(crossed) == 18
        for name, group in crossed.items():
            band, gender = name.split(", ")
            value, *ends = drawn[round(AGE_BANDS.index(band) + {"male": -0.1, "female": 0.1}[gender], 3)]
            assert value == pytest.approx(group.metrics[key])
            if group.intervals[key] is None:
                assert np.isnan(ends).all()
            else:
                assert ends == pytest.approx(group.intervals[key])
    assert [text.get_text() for text in draw(report, "errors")[0].get_legend().get_texts()] == ["male", "female"]


def test_errors_without_genders_are_drawn_for_all() -> None:
    ages = np.repeat([25.0, 45.0], [20, 5])
    report = ag.measure({"age": ages, "predicted_age": ages + np.tile([1.0, 2, 3, 4, 5], 5)})
    (x, y, low, high), (hollow_x, hollow_y, *none) = read_error_bars(draw(report, "errors")[0])
    assert (x, y, hollow_x, hollow_y) == (2, 3, 4, 3) and np.isnan(none).all()
    assert (low, high) == pytest.approx(report.groups["age"]["20-29"].intervals["mae"])


def test_reliability_is_drawn_before_and_after(report: ag.Report) -> None:
    curves, counts = plots._draw_reliability(report.calibration).axes
    diagonal, before, after = curves.lines
    assert diagonal.get_xydata().tolist() == [[0, 0], [1, 1]]
    for line, stage, bars in zip((before, after), ("before", "after"), counts.containers, strict=True):
        bins = report.calibration[stage]["reliability"]
        assert line.get_xydata().tolist() == [[each["predicted"], each["observed"]] for each in bins]
        assert line.get_label() == f"{stage} temperature scaling: ECE {report.calibration[stage]['ece']['value']:.3f}"
        assert [bar.get_height() for bar in bars] == [each["count"] for each in bins]
        assert all(each["low"] < bar.get_x() < each["high"] for bar, each in zip(bars, bins, strict=True))
    alone = {key: value for key, value in report.calibration.items() if key != "after"}
    _, only = plots._draw_reliability(alone).axes[0].lines
    assert only.get_label().startswith("the model: ECE")


def test_predictions_are_drawn_above_their_labels() -> None:
    table = {
        **{"age": np.array([31.0, 4.0]), "predicted_age": np.array([28.6, 5.2])},
        **{"gender": np.array([1.0, 0.0]), "p_female": np.array([0.25, 0.1])},
    }
    images = np.stack([np.full((4, 4, 3), 50, "uint8"), np.full((4, 4, 3), 200, "uint8")])
    figure = plots.draw_predictions(images, table)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[:3] == ["29 male 75%\nrecorded: 31 female", "5 male 90%\nrecorded: 4 male", ""]
    np.testing.assert_array_equal(figure.axes[1].images[0].get_array(), images[1])
    many = plots.draw_predictions(images[[0] * 30], {key: column[[0] * 30] for key, column in table.items()})
    assert len([axes for axes in many.axes if axes.images]) == 24
    ages = {key: table[key] for key in ("age", "predicted_age")}
    assert plots.draw_predictions(images, ages).axes[0].get_title() == "29\nrecorded: 31"
