"""Photographs with age bands as labels, measured by hand and from files to the report."""

import csv
import json
import pathlib

import numpy as np
import pytest

import agegender as ag
from agegender.evaluation.photographs import (
    evaluate_photographs,
    measure_photographs,
    parse_age,
    read_labels,
)
from agegender.inference.results import Face, Photograph


@pytest.fixture
def labels_of(tmp_path: pathlib.Path):
    def write(words: str | bytes) -> pathlib.Path:
        path = tmp_path / "labels.csv"
        path.write_bytes(words if isinstance(words, bytes) else words.encode())
        return path

    return write


def face(age: float | None, p_female: float | None = 0.5, side: int = 10) -> Face:
    return Face((0, 0, side, side), age, p_female)


def test_measures_by_hand(labels_of) -> None:
    labels = read_labels(
        labels_of("file,age_band,gender\na,20-29,male\nb,20-29,female\nc,70+,female\nd,70+,male\ne,3,0\n")
    )
    answers = [
        Photograph([face(19, 0.4)]),  # 0.5 too young
        Photograph([face(90, 0.1, side=9), face(31.5, 0.5)]),  # 1.5 too old; the largest of two faces
        Photograph([face(60, 0.4)]),  # 9.5 too young, wrong gender
        Photograph(),
        Photograph([face(4, 0.2)]),  # inside 2.5 .. 4
    ]
    report = measure_photographs(labels, answers)
    assert (report.count, report.several, report.unreadable) == (5, 1, {})
    assert report.metrics == pytest.approx(
        {
            **{"found": 4 / 5, "gender_accuracy": 3 / 4, "inside": 1 / 4, "distance": 11.5 / 4},
            **{"bias": -8.5 / 4, "mean_age": (19 + 31.5 + 60 + 4) / 4},
        }
    )
    assert set(report.intervals.values()) == {None}  # of five photographs
    assert list(report.bands) == ["0-9", "20-29", "70+"]
    assert report.bands["20-29"]["metrics"] == {
        **{"found": 1, "gender_accuracy": 1, "inside": 0, "distance": 1, "bias": 0.5, "mean_age": 25.25}
    }
    assert report.bands["70+"]["count"] == 2 and report.bands["70+"]["metrics"]["found"] == 0.5
    assert report.bands["70+"]["metrics"]["bias"] == -9.5
    assert str(report).splitlines()[:5] == [
        "5 photographs, 1 with several faces",
        "face found               80.0%",
        "gender accuracy          75.0%",
        "age inside the band      25.0%",
        "distance, years           2.88",
    ]
    assert str(report).splitlines()[-1].split() == ["70+", "2", "50.0%", "0.0%", "0.0%", "9.50", "-9.50", "60.0"]


@pytest.mark.parametrize(("age", "bias"), [(29.4, -0.1), (29.5, 0), (40, 0), (40.1, 0.1)])
def test_band_margins(labels_of, age: float, bias: float) -> None:
    report = measure_photographs(read_labels(labels_of("file,age\na,30-39\n")), [Photograph([face(age)])])
    assert report.metrics["bias"] == pytest.approx(bias) and report.metrics["distance"] == pytest.approx(abs(bias))
    assert report.metrics["inside"] == (bias == 0) and "gender_accuracy" not in report.metrics


def test_intervals_agree_with_a_plain_bootstrap(labels_of) -> None:
    random = np.random.default_rng(0)
    ages = random.normal(30, 10, 60)
    labels = read_labels(labels_of("file,age\n" + "".join(f"{n},20-29\n" for n in range(60))))
    answers = [Photograph([face(age)] if n % 6 else []) for n, age in enumerate(ages)]
    report = measure_photographs(labels, answers)
    biases = [min(age - 19.5, 0) + max(age - 30, 0) if n % 6 else np.nan for n, age in enumerate(ages)]
    samples = [np.nanmean(random.choice(biases, 60)) for _ in range(4000)]
    assert report.intervals["bias"] == pytest.approx(np.quantile(samples, [0.025, 0.975]), abs=0.15)
    assert report.bands["20-29"]["intervals"] == report.intervals
    found = 1.96 * np.sqrt(5 / 36 / 60)
    assert report.intervals["found"] == pytest.approx((5 / 6 - found, 5 / 6 + found), abs=0.02)
    low, high = report.intervals["bias"]
    assert str(report).splitlines()[4] == f"bias, years{report.metrics['bias']:>+19.2f} ({low:+.2f} to {high:+.2f})"
    assert measure_photographs(labels, answers) == report


@pytest.mark.parametrize("count", [9, 10])
def test_ten_photographs_have_an_interval(labels_of, count: int) -> None:
    labels = read_labels(labels_of("file,age\n" + "".join(f"{n},{30 if n < count else 50}\n" for n in range(15))))
    report = measure_photographs(labels, [Photograph([face(33 + n % 5)]) for n in range(15)])
    assert report.intervals["bias"] is not None and report.bands["30-39"]["count"] == count
    assert (report.bands["30-39"]["intervals"]["bias"] is None) == (count == 9)


def test_one_label_or_one_head_is_enough(labels_of) -> None:
    labels = read_labels(labels_of("file,gender,age\na,Female,30\n"))
    assert set(measure_photographs(labels, [Photograph([face(None, 0.9)])]).metrics) == {"found", "gender_accuracy"}
    assert "gender_accuracy" not in measure_photographs(labels, [Photograph([face(30, None)])]).metrics
    assert set(measure_photographs(labels, [Photograph([face(30, 0.9)])]).bands) == {"30-39"}
    both = read_labels(labels_of("file,age,age_band\na,30,40-49\n"))
    assert measure_photographs(both, [Photograph([face(45)])]).metrics["inside"] == 1
    words = "file,gender\na,1\nb,1.0\nc,FEMALE\nd,0\ne,0.0\nf, male\n"
    assert read_labels(labels_of(words)).genders.tolist() == [1, 1, 1, 0, 0, 0]
    genders = read_labels(labels_of("file,gender\na,1.0\nb,male\n"))
    report = measure_photographs(genders, [Photograph([face(30, 0.5)]), Photograph([face(30, 0.5)])])
    assert report.metrics == {"found": 1, "gender_accuracy": 0.5} and report.bands == {}


def test_unreadable_photograph_counts_as_without_a_face(labels_of) -> None:
    labels = read_labels(labels_of("file,age\na,30\nb,30\n"))
    report = measure_photographs(labels, [ag.ImageError("b", "is damaged"), Photograph([face(30)])])
    assert list(report.unreadable) == ["a"] and report.metrics["found"] == 0.5
    assert str(report).splitlines()[-1].startswith("unreadable: a: ")
    with pytest.raises(ValueError, match=r"No face was found\. Received: 2 photographs, 0 of them unreadable"):
        measure_photographs(labels, [Photograph(), Photograph()])


@pytest.mark.parametrize("words", ["old", "-3", "30-20", "117", "nan", "", "3-", "20-29+"])
def test_invalid_age_is_refused(words: str) -> None:
    with pytest.raises(ValueError, match="An age must be"):
        parse_age(words)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("name,age\na,3\n", "must have the column 'file'.*Received: .'name', 'age'."),
        ("file\na\n", "one or more of 'age_band', 'age' and 'gender'"),
        ("file,age\n", "at least one photograph"),
        ("file,age\na,3\na,4\n", "'a' several times"),
        ("file,age\na,x\n", "Received: 'x'"),
        ("file,gender\na,2\n", "A gender must be one of .*Received: '2'"),
        ("file,age\na,3\n".encode("utf-16-le"), "CSV file in UTF-8"),
    ],
)
def test_invalid_labels_are_named(labels_of, words: str, error: str) -> None:
    with pytest.raises(ValueError, match=f"labels.csv.*{error}"):
        read_labels(labels_of(words))


def test_photographs_are_evaluated_from_files(tmp_path: pathlib.Path, couple: np.ndarray) -> None:
    """A model that always answers 33 years and one half, on a drawn photograph and one that is missing."""
    import keras
    from PIL import Image

    trunk = keras.Sequential([keras.Input((64, 64, 3)), keras.layers.GlobalAveragePooling2D()])
    predictor = ag.Predictor(ag.build_model(trunk))
    Image.fromarray(couple).save(tmp_path / "couple.png")
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "l.csv").write_text("file,age_band,gender\ncouple.png,40-49,female\nlost.png,20-29,male\n")
    report = evaluate_photographs(
        tmp_path / "tables" / "l.csv", folder=tmp_path, predictor=predictor, out=tmp_path / "out"
    )
    assert (report.count, report.several, list(report.unreadable)) == (2, 1, ["lost.png"])
    assert report.metrics["bias"] == pytest.approx(-6.5) and report.metrics["gender_accuracy"] == 1
    assert json.loads((tmp_path / "out" / "report.json").read_text())["metrics"] == report.metrics
    with open(tmp_path / "out" / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["faces"] for row in rows] == ["2", "0"] and rows[1]["predicted_age"] == "nan"


class Stream:
    """A predictor that answers 33 years for every path, and keeps the paths."""

    def stream(self, paths: list[pathlib.Path]):
        self.paths = paths
        return (Photograph([face(33)]) for _ in paths)


def test_files_are_relative_to_the_folder_of_the_labels(labels_of) -> None:
    path, predictor = labels_of("file,age\na.jpg,33\nb/c.jpg,43\n"), Stream()
    report = evaluate_photographs(path, predictor=predictor)
    assert predictor.paths == [path.parent / "a.jpg", path.parent / "b" / "c.jpg"]
    assert report.metrics["bias"] == -4.75
    assert report.to_dict()["metrics"] == report.metrics and "table" not in report.to_dict()
