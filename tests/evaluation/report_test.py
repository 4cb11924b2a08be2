"""The files of a report, and its numbers from its own dump of predictions, by other means than it was measured with."""

import csv
import html.parser
import json
import math
import pathlib
import re
import statistics

import numpy as np
import pytest
from groups_test import faces

import agegender as ag
from agegender.evaluation import groups, plots, report_html, report_sections
from agegender.evaluation import report as measuring

COUNT = 300


def predictions() -> dict[str, np.ndarray]:
    table = faces(COUNT)
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
    report = ag.measure(predictions(), promised=0.9, temperature=1.5)
    images = {name: name.encode() for name in report.predictions["file_name"]}
    assert ag.write_report(report, folder, title="A <b> title", images=images) == folder / "report.html"
    return folder


@pytest.fixture(scope="module")
def rows(written: pathlib.Path) -> list[dict]:
    with open(written / "predictions.csv", newline="") as file:
        words = ("file_name", "group")
        return [{k: v if k in words else float(v) for k, v in row.items()} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def told(written: pathlib.Path) -> dict:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads((written / "report.json").read_text(), parse_constant=refuse)


def by_hand(rows: list[dict]) -> dict[str, float]:
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


def test_the_numbers_of_the_report_are_those_of_its_dump(rows: list[dict], told: dict) -> None:
    assert told["count"] == len(rows) == COUNT
    assert told["model"] == pytest.approx(by_hand(rows), rel=1e-12)
    races = ag.schema.RACES
    for (name, part), code in zip(told["groups"]["race"].items(), range(5), strict=True):
        some = [row for row in rows if row["race"] == code]
        assert name == races[code] and part["count"] == len(some)
        assert part["model"] == pytest.approx(by_hand(some), rel=1e-12)
    some = [row for row in rows if 20 <= row["age"] < 30 and row["gender"] == 1]
    model, expected = dict(told["groups"]["age x gender"]["20-29, female"]["model"]), by_hand(some)
    assert model.pop("auc") is None is expected.pop("auc") and model == pytest.approx(expected, rel=1e-12)
    for point in told["curve"]:
        within = [abs(row["predicted_age"] - row["age"]) <= point["years"] for row in rows]
        assert point["value"] == sum(within) / COUNT


def test_calibration_and_coverage_are_those_of_the_dump(rows: list[dict], told: dict) -> None:
    for stage, key in (("before", "p_female"), ("after", "p_female_calibrated")):
        bins = {}
        for row in rows:
            bins.setdefault(min(int(row[key] * 10), 9), []).append(row)
        gaps = [abs(sum(row[key] - row["gender"] for row in some)) for some in bins.values()]
        assert told["calibration"][stage]["ece"]["value"] == pytest.approx(sum(gaps) / COUNT, rel=1e-12)
        counts = [each["count"] for each in told["calibration"][stage]["reliability"]]
        assert counts == [len(bins[index]) for index in sorted(bins)]
    inside = [row["age_low"] <= row["age"] <= row["age_high"] for row in rows]
    assert told["coverage"]["all"]["value"] == sum(inside) / COUNT and told["coverage"]["promised"] == 0.9


def test_an_interval_is_near_that_of_another_bootstrap(rows: list[dict], told: dict) -> None:
    names = sorted({row["group"] for row in rows})
    errors = {name: [abs(r["predicted_age"] - r["age"]) for r in rows if r["group"] == name] for name in names}
    random = np.random.default_rng(99)
    draws = random.integers(0, len(names), (400, len(names)))
    drawn = [statistics.fmean(error for index in draw for error in errors[names[index]]) for draw in draws]
    assert told["bootstrap"] == {"repetitions": 1000, "seed": 0, "resampled": "photograph groups", "units": len(names)}
    assert told["intervals"]["mae"] == pytest.approx(list(np.quantile(drawn, [0.025, 0.975])), abs=0.12)


def test_what_is_read_back_measures_exactly_the_same(written: pathlib.Path, told: dict) -> None:
    again = ag.measure(ag.read_predictions(written / "predictions.csv"), promised=0.9, temperature=1.5)
    assert json.loads(json.dumps(again.to_dict())) == told


class Page(html.parser.HTMLParser):
    """What a browser would fetch, the words that are shown, and whether every tag that opens closes."""

    def __init__(self, path: pathlib.Path) -> None:
        super().__init__()
        self.fetched, self.words, self.open, self.tags = [], [], [], []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append(tag)
        self.fetched += [value for name, value in attributes if name in ("src", "href") and not value.startswith("#")]
        if tag not in ("meta", "img", "br", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_needs_nothing_else_and_says_what_matters(written: pathlib.Path) -> None:
    page = Page(written / "report.html")
    assert page.open == [] and "script" not in page.tags and "link" not in page.tags
    assert len(page.fetched) == 7 and all(url.startswith("data:image/png;base64,") for url in page.fetched)
    assert not re.search(r"url\(|@import", (written / "report.html").read_text())
    words = " ".join(page.words)
    for expected in ("A <b> title", "300 images", "Gaps between groups", "Asian", "20-29, female", "ECE"):
        assert expected in words, expected
    for expected in ("MAE: the mean of |predicted - recorded| age", "A gap", "not for checking ages at a door"):
        assert expected.replace("A gap", "Gap: the measure") in words, expected


def test_every_plot_lies_beside_the_markdown_that_shows_it(written: pathlib.Path) -> None:
    words = (written / "report.md").read_text()
    shown = re.findall(r"!\[.+\]\((.+\.png)\)", words)
    assert len(shown) == 7 and set(shown) == {path.name for path in written.glob("*.png")}
    assert "| age MAE, years |" in words and words.startswith("# A <b> title")


def test_no_image_is_on_the_report_and_the_page_with_images_warns(written: pathlib.Path) -> None:
    assert "data:image/jpeg" not in (written / "report.html").read_text()
    page = Page(written / "errors.html")
    assert page.open == [] and all(url.startswith("data:image/jpeg;base64,") for url in page.fetched)
    assert "may not be published" in " ".join(page.words)


def test_the_largest_errors_come_first_and_only_wrong_genders_are_wrong() -> None:
    table = {
        **{"age": np.array([10.0, 20, 30, 40]), "predicted_age": np.array([11.0, 40, 30, 25])},
        **{"gender": np.array([0.0, 0, 1, 1]), "p_female": np.array([0.6, 0.9, 0.8, 0.3])},
    }
    ages, genders = report_html.largest_errors(table, 3).values()
    assert ages == [1, 3, 0] and genders == [1, 3, 0]


def test_a_dump_as_excel_writes_it_with_names_of_races_is_read(tmp_path: pathlib.Path) -> None:
    (tmp_path / "theirs.csv").write_text("age,predicted_age,race\r\n20,25,Indian\r\n30,30,0\r\n", "utf-8-sig")
    table = ag.read_predictions(tmp_path / "theirs.csv")
    assert {key: column.tolist() for key, column in table.items()} == {
        **{"age": [20, 30], "predicted_age": [25, 30], "race": [3, 0]},
    }


def test_below_each_of_the_largest_errors_stand_the_guess_and_what_is_recorded() -> None:
    table = {
        **{"file_name": np.array(["20_0_<1>.jpg", "b.jpg"]), "age": np.array([20.0, 30]), "gender": np.array([0.0, 1])},
        **{"predicted_age": np.array([50.4, 30]), "p_female": np.array([0.9, 0.8])},
    }
    page = report_html.errors_page("title", table, {"20_0_<1>.jpg": b"first", "b.jpg": b"second"})
    ages, genders = re.findall(r"<section.*?</section>", page, re.DOTALL)
    words = "guess 50.4 years, female 90.0%<br>recorded 20 years, male<br><small>20_<wbr>0_<wbr>&lt;1&gt;.jpg</small>"
    assert words in ages and words in genders
    assert re.findall(r"base64,(\w+=*)", ages) == ["Zmlyc3Q=", "c2Vjb25k"]
    assert re.findall(r"base64,(\w+=*)", genders) == ["Zmlyc3Q="]  # the other one is right


def test_what_a_table_holds_is_text_on_the_page() -> None:
    rows = report_sections.Rows(["<i>", ""], [["a & b", "<script>"]])
    page = report_html.html_page("<title>", {"<h1>": [rows, "1 < 2"]})
    assert "<tr><th>&lt;i&gt;</th><th></th></tr>\n<tr><td>a &amp; b</td><td>&lt;script&gt;</td></tr>" in page
    assert "<title>&lt;title&gt;</title>" in page and "&lt;h1&gt;" in page and "<p>1 &lt; 2</p>" in page


def test_a_gap_is_told_from_the_best_group_to_the_worst(written: pathlib.Path, told: dict) -> None:
    (line,) = re.findall(r"^\| age MAE, years \| race \| .*$", (written / "report.md").read_text(), re.MULTILINE)
    best, worst = re.findall(r"(\w+): ([\d.]+)", line)
    values = {name: part["model"]["mae"] for name, part in told["groups"]["race"].items()}
    assert (best[0], worst[0]) == (min(values, key=values.__getitem__), max(values, key=values.__getitem__))
    assert f"+{float(worst[1]) - float(best[1]):.1f}" in line


def test_the_plots_show_the_numbers_at_their_places() -> None:
    table = predictions()
    report = measuring.measure(table)
    points, *_ = plots._ages(report).axes[0].collections
    np.testing.assert_array_equal(points.get_offsets(), np.stack([table["age"], table["predicted_age"]], 1))
    (curve, *_) = plots._curve(report).axes[0].lines
    assert np.asarray(curve.get_xydata()).tolist() == [[point["years"], point["value"]] for point in report.curve]
    crossed = report.groups["age x race"]
    for text in plots._map(crossed, "mae", "Oranges").axes[0].texts:
        column, row = map(int, text.get_position())
        part = crossed[f"{groups.BANDS[row]}, {ag.schema.RACES[column]}"]
        value = f"{part.model['mae']:.2f}\nn = {part.count}" if part.count >= 10 else f"n = {part.count}"
        assert text.get_text() == value


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


def test_a_dump_of_one_head_without_any_group_makes_a_report(tmp_path: pathlib.Path) -> None:
    (tmp_path / "theirs.csv").write_text("p_female,gender,other\n0.25,male,x\n0.75,female,y\n")
    report = ag.measure(ag.read_predictions(tmp_path / "theirs.csv"))
    assert report.model["log_loss"] == pytest.approx(-math.log(0.75)) and list(report.groups) == ["gender"]
    ag.write_report(report, tmp_path)
    assert {path.name for path in tmp_path.glob("*.png")} == {"reliability.png"}
    assert "no interval" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("", "must hold 'predicted_age' or 'p_female'"),
        ("age,predicted_age\n20\n", "line 2 must have 2 values"),
        ("age,predicted_age\n20,old\n", "'predicted_age' must hold numbers: .*old"),
        ("gender,p_female\nwoman,0.5\n", r"'gender' must hold numbers or \('male', 'female'\)"),
        ("age,predicted_age\n20,nan\n", "Received: nan"),
    ],
)
def test_what_is_no_dump_is_named_with_its_file(tmp_path: pathlib.Path, words: str, error: str) -> None:
    (tmp_path / "x.csv").write_text(words)
    with pytest.raises(ValueError, match=f"x.csv: .*{error}"):
        ag.read_predictions(tmp_path / "x.csv")


def test_the_printed_report_names_bands_and_gaps() -> None:
    words = str(measuring.measure(predictions()))
    for expected in ("300 images", "95 % interval", "20-29", "age MAE, years by race:", "(Asian)"):
        assert expected in words
