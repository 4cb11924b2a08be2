"""Measures a model on anybody's photographs, with ages or age bands as labels.

A prediction is inside the band low-high if it is from low - 0.5 to high + 1 years; an age n is the band n-n. The
distance is how many years it is outside, 0 inside; the bias is the distance with its sign, negative below the band.
Of several faces in a photograph, the largest counts.
"""

import csv
import dataclasses
import os
import pathlib
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from agegender.evaluation import metrics
from agegender.evaluation.groups import MIN_INTERVAL_IMAGES, Interval, assign_age_bands
from agegender.evaluation.predictions import read_csv
from agegender.schema import AGE, GENDER, GENDERS, MAX_AGE, MIN_AGE

if TYPE_CHECKING:
    from agegender.inference.predictor import Predictor

FILE: Final = "file"
AGE_BAND: Final = "age_band"
_BELOW, _ABOVE = 0.5, 1.0  # years by which a band is extended: who is 29 is not yet 30
_FORMATS: Final = {
    "found": ("face found", "{:.1%}"),
    "gender_accuracy": ("gender accuracy", "{:.1%}"),
    "inside": ("age inside the band", "{:.1%}"),
    "distance": ("distance, years", "{:.2f}"),
    "bias": ("bias, years", "{:+.2f}"),
    "mean_age": ("mean predicted age", "{:.1f}"),
}


@dataclasses.dataclass(frozen=True)
class PhotographLabels:
    """The labels of photographs.

    Attributes:
        files: paths, relative to a folder.
        low: the lower end of each age band in years, [photographs]; None without ages.
        high: the upper end.
        bands: the name of each age band.
        genders: 0 = male, 1 = female; None without genders.
    """

    files: list[str]
    low: NDArray[np.float64] | None
    high: NDArray[np.float64] | None
    bands: NDArray[np.str_] | None
    genders: NDArray[np.float64] | None


@dataclasses.dataclass(frozen=True)
class PhotographReport:
    """The measures of a model on photographs. `print(report)` shows them.

    Attributes:
        count: number of photographs.
        unreadable: the files that could not be read, with the reason; they count as without a face.
        several: number of photographs with several faces.
        metrics: "found", the share of photographs with a face, and of these "gender_accuracy", "inside", the share of
            ages inside their band, "distance" and "bias" in years, and "mean_age"; as far as there are labels.
        intervals: their 95 % bootstrap intervals over photographs; None for fewer than 10.
        bands: `{"count", "metrics", "intervals"}` for each age band.
        table: the predictions, a column [photographs] for each name; NaN where no face was found.
    """

    count: int
    unreadable: dict[str, str]
    several: int
    metrics: dict[str, float]
    intervals: dict[str, Interval]
    bands: dict[str, dict[str, Any]]
    table: dict[str, NDArray[Any]] = dataclasses.field(repr=False, compare=False)

    def __str__(self) -> str:
        lines = [f"{self.count:,} photographs, {self.several:,} with several faces"]
        for key, value in self.metrics.items():
            label, number_format = _FORMATS[key]
            ends = self.intervals[key]
            between = f" ({' to '.join(number_format.format(end) for end in ends)})" if ends else ""
            lines.append(f"{label:<22}{number_format.format(value):>8}{between}")
        if self.bands:
            keys = list(self.metrics)
            lines.append(f"\n{'age':<7}{'count':>7}" + "".join(f"{_FORMATS[key][0]:>21}" for key in keys))
        for name, band in self.bands.items():
            values = [_FORMATS[key][1].format(band["metrics"][key]) if key in band["metrics"] else "" for key in keys]
            lines.append(f"{name:<7}{band['count']:>7,}" + "".join(f"{value:>21}" for value in values))
        return "\n".join([*lines, *(f"unreadable: {file}: {reason}" for file, reason in self.unreadable.items())])

    def to_dict(self) -> dict[str, Any]:
        """The report without the predictions as plain Python values, ready for JSON."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "table"}


def evaluate_photographs(
    labels: str | os.PathLike,
    *,
    folder: str | os.PathLike | None = None,
    predictor: "Predictor | None" = None,
    out: str | os.PathLike | None = None,
) -> PhotographReport:
    """Measures a model on photographs with ages or age bands as labels, face detection included.

    Args:
        labels: a CSV file with the columns "file", "age" or "age_band" ("34", "34.0", "30-39", "70+" or
            "more than 70"), and "gender" ("male" or "female", or 0 and 1). One of age and gender is enough.
        folder: the folder that the files are relative to; None is the folder of the CSV file.
        predictor: the `Predictor` to measure; None is that of the released model.
        out: the folder to write report.json and predictions.csv to; None writes nothing.

    Returns:
        A `PhotographReport`.

    Raises:
        FileNotFoundError: if there is no such CSV file, or no model.
        ValueError: if the labels cannot be used, or no photograph has a face.

    Example:

    >>> from agegender import Predictor
    >>> _ = pathlib.Path("labels.csv").write_text("file,age_band,gender\\nparty.jpg,40-49,female\\n")
    >>> evaluate_photographs("labels.csv", predictor=Predictor("runs/1")).metrics["bias"]
    -6.5
    """
    from agegender.inference.predictor import Predictor

    table = read_labels(labels)
    root = pathlib.Path(labels).parent if folder is None else pathlib.Path(folder)
    answers = (predictor or Predictor()).stream([root / file for file in table.files])
    report = measure_photographs(table, answers)
    if out is not None:
        from agegender.evaluation.report_page import write_json

        pathlib.Path(out).mkdir(parents=True, exist_ok=True)
        write_json(report.to_dict(), pathlib.Path(out) / "report.json")
        with open(pathlib.Path(out) / "predictions.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(report.table)
            writer.writerows(zip(*(column.tolist() for column in report.table.values()), strict=True))
    return report


def read_labels(path: str | os.PathLike) -> PhotographLabels:
    """Reads the labels of `evaluate_photographs`."""
    columns = read_csv(path)
    age_key = AGE_BAND if AGE_BAND in columns else AGE
    if FILE not in columns or not {age_key, GENDER} & set(columns):
        raise ValueError(
            f"{path} must have the column 'file' and one or more of 'age_band', 'age' and 'gender'. Received: "
            f"{list(columns)}"
        )
    if not columns[FILE]:
        raise ValueError(f"{path} must have at least one photograph. Received a header alone")
    if duplicate := next((file for file in columns[FILE] if columns[FILE].count(file) > 1), None):
        raise ValueError(f"{path} must name each file once. Received {duplicate!r} several times")
    low = high = bands = genders = None
    try:
        if age_key in columns:
            low, high = np.array([parse_age(words) for words in columns[age_key]]).T
            names = [f"{a:g}+" if b == MAX_AGE else f"{a:g}-{b:g}" for a, b in zip(low, high, strict=True)]
            bands = np.where(low != high, names, assign_age_bands(low))
        if GENDER in columns:
            genders = np.array([_parse_gender(words) for words in columns[GENDER]])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return PhotographLabels(columns[FILE], low, high, bands, genders)


def parse_age(words: str) -> tuple[float, float]:
    """The lower and the upper end of an age or an age band in years.

    >>> parse_age("34.0"), parse_age("30-39"), parse_age("70+"), parse_age("more than 70")
    ((34.0, 34.0), (30.0, 39.0), (70.0, 116.0), (70.0, 116.0))
    """
    number = r"(\d+(?:\.\d*)?)"
    if found := re.fullmatch(rf"(?:more than )?{number}\+?", words.strip(), re.IGNORECASE):
        low = high = float(found[1])
        if words.strip() != found[1]:
            high = float(MAX_AGE)
    elif found := re.fullmatch(rf"{number} ?[-\u2013] ?{number}", words.strip()):
        low, high = float(found[1]), float(found[2])
    else:
        raise ValueError(f"An age must be a number such as 34, or a band such as 30-39 or 70+. Received: {words!r:.50}")
    if not MIN_AGE <= low <= high <= MAX_AGE:
        raise ValueError(f"An age must be in {MIN_AGE}..{MAX_AGE} years, the lower end first. Received: {words!r:.50}")
    return low, high


def measure_photographs(labels: PhotographLabels, answers: Iterable[Any]) -> PhotographReport:
    """Measures the answers of a `Predictor` to labelled photographs.

    Args:
        labels: of the photographs.
        answers: a `Photograph` or an `ImageError` for each, in the same order.
    """
    count = len(labels.files)
    ages, p_female, faces = np.full(count, np.nan), np.full(count, np.nan), np.zeros(count, int)
    unreadable = {}
    for row, answer in enumerate(answers):
        if isinstance(answer, Exception):
            unreadable[labels.files[row]] = str(getattr(answer, "reason", answer))
            continue
        faces[row] = len(answer)
        if len(answer):
            largest = max(answer, key=lambda face: (face.box[2] - face.box[0]) * (face.box[3] - face.box[1]))
            ages[row] = np.nan if largest.age is None else largest.age
            p_female[row] = np.nan if largest.p_female is None else largest.p_female
    if not faces.any():
        raise ValueError(f"No face was found. Received: {count:,} photographs, {len(unreadable):,} of them unreadable")
    table = {FILE: np.array(labels.files), "faces": faces, "predicted_age": ages, "p_female": p_female}
    if labels.genders is not None:
        table[GENDER] = labels.genders.astype(int)
    if labels.bands is not None:
        table[AGE_BAND] = labels.bands
    values = {"found": (faces > 0).astype("float64"), **score_photographs(labels, ages, p_female)}
    weights = metrics.resample(np.arange(count))
    whole = _measure_rows(values, weights, np.ones(count, bool))
    bands = {}
    if labels.bands is not None and labels.low is not None:
        for name in dict.fromkeys(labels.bands[np.argsort(labels.low, kind="stable")].tolist()):
            bands[name] = _measure_rows(values, weights, labels.bands == name)
    return PhotographReport(
        count, unreadable, int(np.sum(faces > 1)), whole["metrics"], whole["intervals"], bands, table
    )


def score_photographs(
    labels: PhotographLabels, ages: NDArray[np.float64], p_female: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """Compares predictions with labels, photograph by photograph.

    Args:
        labels: of the photographs.
        ages: predicted, in years, [photographs]; NaN without a face.
        p_female: predicted probability of female, [photographs]; NaN without a face.

    Returns:
        "gender_accuracy" (0 or 1), "inside" (0 or 1), "distance", "bias" and "mean_age" (years), each [photographs], as
        far as there are labels; NaN without a face.
    """
    scores: dict[str, NDArray[np.float64]] = {}
    if labels.genders is not None:
        scores["gender_accuracy"] = np.where(np.isnan(p_female), np.nan, (p_female >= 0.5) == (labels.genders == 1))
    if labels.low is not None and labels.high is not None:
        bias = np.minimum(ages - (labels.low - _BELOW), 0) + np.maximum(ages - (labels.high + _ABOVE), 0)
        inside = np.where(np.isnan(ages), np.nan, bias == 0)
        scores |= {"inside": inside, "distance": np.abs(bias), "bias": bias, "mean_age": ages}
    return scores


def mean_interval(values: NDArray[np.float64], weights: NDArray[Any]) -> Interval:
    """The 95 % bootstrap interval of the mean of the values [photographs] that are not NaN.

    Args:
        values: [photographs].
        weights: how often each sample contains each photograph, [samples, photographs], from `metrics.resample`.
    """
    known = ~np.isnan(values)
    of_known = weights[:, known].astype("float64")
    with np.errstate(invalid="ignore"):  # NaN for a sample without any of these photographs
        return metrics.interval(of_known @ values[known] / of_known.sum(1))


def _measure_rows(
    values: dict[str, NDArray[np.float64]], weights: NDArray[Any], rows: NDArray[np.bool_]
) -> dict[str, Any]:
    """Averages each measure over the photographs at `rows` that have a value."""
    means: dict[str, float] = {}
    intervals: dict[str, Interval] = {}
    for key, column in values.items():
        known = rows & ~np.isnan(column)
        if not known.any():
            continue
        means[key] = float(column[known].mean())
        intervals[key] = None
        if known.sum() >= MIN_INTERVAL_IMAGES:
            intervals[key] = mean_interval(np.where(rows, column, np.nan), weights)
    return {"count": int(rows.sum()), "metrics": means, "intervals": intervals}


def _parse_gender(words: str) -> float:
    names = {**{name: float(code) for code, name in enumerate(GENDERS)}, "0": 0.0, "0.0": 0.0, "1": 1.0, "1.0": 1.0}
    if words.strip().lower() not in names:
        raise ValueError(f"A gender must be one of {GENDERS}, or 0 or 1. Received: {words!r}")
    return names[words.strip().lower()]
