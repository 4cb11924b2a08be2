"""The HTML pages of a report."""

import html.parser
import pathlib
import re

import numpy as np
import pytest
from report_test import make_predictions

import agegender as ag
from agegender.evaluation import report_page

PLOTS = {f"{name}.png" for name in ("ages", "curve", "errors", "reliability")}


@pytest.fixture(scope="module")
def report() -> ag.Report:
    return ag.measure(make_predictions(), nominal_coverage=0.9, temperature=1.5)


@pytest.fixture(scope="module")
def written(report: ag.Report, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("report")
    images = {name: name.encode() for name in report.predictions["file_name"]}
    ag.write_report(report, folder, title="A <b> title", images=images)
    return folder


class Page(html.parser.HTMLParser):
    """What a browser would fetch, and the tables, paragraphs and headings of each section."""

    def __init__(self, path: pathlib.Path) -> None:
        super().__init__()
        self.fetched, self.open, self.tags, self.words = [], [], [], []
        self.tables: dict[str, list[list[str]]] = {}
        self.feed(path.read_text())
        assert not self.open

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.tags.append(tag)
        self.fetched += [value for name, value in attributes if name in ("src", "href") and not value.startswith("#")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        if tag == "tr":
            self.tables.setdefault(self.heading, []).append([])
        if tag in ("td", "th"):
            self.tables[self.heading][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self.open and self.open[-1] == "h2":
            self.heading = data
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[self.heading][-1][-1] += data


@pytest.fixture(scope="module")
def page(written: pathlib.Path) -> Page:
    return Page(written / "report.html")


def test_page_needs_nothing_else(written: pathlib.Path, page: Page) -> None:
    assert "script" not in page.tags and "link" not in page.tags
    assert len(page.fetched) == 4 and all(url.startswith("data:image/png;base64,iVBOR") for url in page.fetched)
    assert not re.search(r"url\(|@import", (written / "report.html").read_text())
    assert {path.name for path in written.glob("*.png")} == PLOTS
    assert page.words.count("A <b> title") == 2


def test_page_has_definitions_and_limits(report: ag.Report, page: Page) -> None:
    words = " ".join(page.words)
    for expected in (
        "300 images. The 95 % intervals come from 1,000 bootstrap samples",
        f"samples of {report.bootstrap['units']} photograph groups: they say",
        "MAE: the mean of |predicted - recorded| age, in years.",
        "Coverage: the share of images with the recorded age inside the predicted interval, both ends included.",
        "Gap: the measure of the worst group minus that of the best",
        "not for checking ages at a door",
        "The nominal coverage is 90%.",
    ):
        assert expected in words


def test_tables_show_the_numbers_of_the_report(report: ag.Report, page: Page) -> None:
    low, high = report.intervals["mae"]
    assert page.tables["All images"][1] == [
        *("age MAE, years", f"{report.metrics['mae']:.2f}", f"{low:.2f} to {high:.2f}"),
        f"{report.baseline['mae']:.2f}",
    ]
    assert len(page.tables["All images"]) == 9
    gap = report.gaps["race"]["gender_accuracy"]
    race = report.groups["race"]
    (line,) = [line for line in page.tables["Gaps between groups"] if line[:2] == ["gender accuracy", "race"]]
    assert line[2:] == [
        *(f"{name}: {race[name].metrics['gender_accuracy']:.1%}" for name in (gap.best, gap.worst)),
        f"{100 * gap.difference:+.1f} points ({100 * gap.interval[0]:+.1f} to {100 * gap.interval[1]:+.1f})",
    ]
    header, *lines = page.tables["By race"]
    assert header[:3] == ["race", "images", "age MAE, years"] and len(header) == 9
    assert [line[:2] for line in lines] == [[name, str(part.count)] for name, part in race.items()]
    assert page.tables["By age x race"][0][2:] == ["age MAE, years", "age bias, years", "gender accuracy"]
    assert page.tables["Calibration of the gender"][0][1:] == [
        *("before calibration", "after temperature scaling, temperature 1.500")
    ]
    for row, key in ((1, "log_loss"), (2, "ece")):
        value = report.calibration["after"][key]
        shown = f"{value['value']:.3f} ({value['interval'][0]:.3f} to {value['interval'][1]:.3f})"
        assert page.tables["Calibration of the gender"][row][2] == shown
    coverage = page.tables["Coverage of the age intervals"]
    assert coverage[1][:2] == ["all", "300"] and coverage[1][3] == "9.6" and coverage[-1][0] == "Others"
    assert coverage[1][2].startswith(f"{report.coverage['all']['value']:.1%} (")


def test_error_page_shows_the_images_with_a_warning(written: pathlib.Path) -> None:
    assert "data:image/jpeg" not in (written / "report.html").read_text()
    page = Page(written / "errors.html")
    assert all(url.startswith("data:image/jpeg;base64,") for url in page.fetched)
    assert "may not be published" in " ".join(page.words) and "A <b> title: the largest errors" in page.words


def test_largest_errors_come_first() -> None:
    table = {
        **{"age": np.array([10.0, 20, 30, 40]), "predicted_age": np.array([11.0, 40, 30, 25])},
        **{"gender": np.array([0.0, 0, 1, 1]), "p_female": np.array([0.6, 0.9, 0.8, 0.3])},
    }
    ages, genders = report_page.find_largest_errors(table, 3).values()
    assert ages == [1, 3, 0] and genders == [1, 3, 0]
    assert [len(rows) for rows in report_page.find_largest_errors(table, 2).values()] == [2, 2]
    many = {key: np.tile(column, 50) for key, column in table.items()}  # of equal errors the first come first
    assert set(map(tuple, report_page.find_largest_errors(many).values())) == {tuple(range(1, 193, 4))}
    right = table | {"p_female": table["gender"] * 0.5}
    assert list(report_page.find_largest_errors(right)) == ["The largest age errors"]


def test_faces_stand_above_prediction_and_label() -> None:
    table = {
        **{"file_name": np.array(["20_0_<1>.jpg", "b.jpg"]), "age": np.array([20.0, 30]), "gender": np.array([0.0, 1])},
        **{"predicted_age": np.array([50.4, 30]), "p_female": np.array([0.9, 0.8])},
    }
    sections = report_page.build_error_sections(table, {"20_0_<1>.jpg": b"first", "b.jpg": b"second"})
    page = report_page.render_page("title", sections)
    ages, genders = re.findall(r"<section.*?</section>", page, re.DOTALL)
    words = "predicted 50.4 years, female 90.0%<br>recorded 20 years, male<br>20_0_&lt;1&gt;.jpg</figcaption>"
    assert words in ages and words in genders
    assert re.findall(r"base64,(\w+=*)", ages) == ["Zmlyc3Q=", "c2Vjb25k"]
    assert re.findall(r"base64,(\w+=*)", genders) == ["Zmlyc3Q="]  # the other one is right


def test_words_are_escaped() -> None:
    rows = report_page.Rows(["<i>", ""], [["a & b", "<script>"]])
    page = report_page.render_page("<title>", {"<h1>": [rows, "1 < 2"]}, warning="<w>")
    assert "<tr><th>&lt;i&gt;</th><th></th></tr>\n<tr><td>a &amp; b</td><td>&lt;script&gt;</td></tr>" in page
    for word in ("<title>&lt;title&gt;</title>", "&lt;h1&gt;", "<p>1 &lt; 2</p>", '<p class="warning">&lt;w&gt;</p>'):
        assert word in page


def test_differences_have_a_sign_and_shares_are_in_points() -> None:
    assert report_page.format_difference("mae", -0.256, (-0.5, 0.004)) == "-0.26 (-0.50 to +0.00)"
    assert report_page.format_difference("auc", 0.0124, None) == "+0.012 (no interval)"
    assert report_page.format_difference("log_loss", 0.5, (0.25, 0.75)) == "+0.500 (+0.250 to +0.750)"
    assert report_page.format_with_interval("auc", None, None) == "none"
    assert report_page.format_with_interval("mae", 2.0, None) == "2.00 (no interval)"


def test_report_of_one_head_on_two_images_is_written(tmp_path: pathlib.Path) -> None:
    report = ag.measure({"gender": np.array([0.0, 1]), "p_female": np.array([0.25, 0.75])})
    page = Page(ag.write_report(report, tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {
        *("report.html", "report.json", "predictions.csv", "reliability.png")
    }
    assert page.tables["All images"][1][2] == "no interval"
    assert list(page.tables) == ["All images", "By gender", "Calibration of the gender"]
    assert page.tables["Calibration of the gender"][0] == ["", "before calibration"]
