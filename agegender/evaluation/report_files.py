"""What a report leaves behind: numbers for programs, words and plots for people, every prediction to check them by."""

import csv
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agegender.evaluation import plots as report_plots
from agegender.evaluation import report_html, report_sections
from agegender.evaluation.groups import COLUMNS, Table, check_table
from agegender.evaluation.report import Report
from agegender.schema import FILE_NAME, GENDER, GENDERS, GROUP, RACE, RACES

_CODES: Final = {GENDER: GENDERS, RACE: RACES}


def write_report(
    report: Report,
    folder: str | os.PathLike,
    *,
    title: str = "Report",
    images: Mapping[str, bytes] | None = None,
) -> pathlib.Path:
    """Writes report.json, report.md, report.html, the plots as PNG, predictions.csv, and with images errors.html.

    Args:
        report: from `evaluate` or `measure`.
        folder: where to; made if it is not there, and files of an earlier report are written over.
        title: of the pages: which model, which images.
        images: encoded as JPEG, at their file names, at least those of `report_html.largest_errors`; the page with
            them may be published only if they may, which images of UTKFace may not.

    Returns:
        The path of report.html: one file that needs nothing else.

    Example:

    >>> import numpy as np
    >>> from agegender import measure
    >>> ages, genders, errors = np.repeat([25, 45], 20), np.arange(40) % 2, np.arange(40) % 7 - 3
    >>> report = measure({"age": ages, "predicted_age": ages + errors, "gender": genders})
    >>> write_report(report, "report").name
    'report.html'
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_predictions(report.predictions, folder / "predictions.csv")
    write_json(report.to_dict(), folder / "report.json")
    plots = report_plots.draw_plots(report, folder)
    sections = report_sections.tell(report, plots)
    (folder / "report.md").write_text(report_html.markdown(title, sections), encoding="utf-8")
    page = folder / "report.html"
    page.write_text(report_html.html_page(title, sections, folder=folder), encoding="utf-8")
    if images is not None:
        faces = report_html.errors_page(f"{title}: the largest errors", report.predictions, images)
        (folder / "errors.html").write_text(faces, encoding="utf-8")
    return page


def write_json(content: Any, path: pathlib.Path) -> None:
    """Writes strict JSON: a value that is not there is null, and NaN an error."""
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_predictions(table: Table, path: str | os.PathLike) -> None:
    """Writes a table of predictions as CSV, every number with all of its digits; gender and race are codes."""
    keys = [key for key in COLUMNS if key in table]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(keys)
        writer.writerows(zip(*(_words(table[key]) for key in keys), strict=True))


def read_predictions(path: str | os.PathLike) -> dict[str, NDArray[Any]]:
    """Reads predictions.csv of `write_report`, or one that another program wrote for its own model.

    Args:
        path: a CSV file whose first line names the columns: "age" and "predicted_age" in years, "gender" (0 or male, 1
            or female) and "p_female", or all four; also, if known, "file_name", "group", "race" (a code or a name of
            `schema.RACES`), "age_low" and "age_high", "p_female_calibrated". Others are passed over.

    Returns:
        A table for `measure`: a column [images] at each name.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: for what is no such table.

    Example:

    >>> import pathlib
    >>> from agegender import measure
    >>> _ = pathlib.Path("theirs.csv").write_text("age,predicted_age\\n20,25\\n40,39\\n")
    >>> measure(read_predictions("theirs.csv")).model["mae"]
    3.0
    """
    with open(path, newline="", encoding="utf-8-sig") as file:
        head, *rows = list(csv.reader(file)) or [[]]
    uneven = next((line for line, row in enumerate(rows, 2) if len(row) != len(head)), None)
    if uneven:
        raise ValueError(f"{path}: line {uneven} must have {len(head)} values, as the first one has")
    try:
        known: list[str] = [key for key in COLUMNS if key in head]
        table = {key: _column(key, [row[head.index(key)] for row in rows]) for key in known}
        check_table(table)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return table


def _column(key: str, words: list[str]) -> NDArray[Any]:
    if key in (FILE_NAME, GROUP):
        return np.array(words, str)
    names = _CODES.get(key, ())
    try:
        return np.array([names.index(word) if word in names else float(word) for word in words], "float64")
    except ValueError as error:
        raise ValueError(f"{key!r} must hold numbers{f' or {names}' if names else ''}: {error}") from None


def _words(column: NDArray[Any]) -> list[str]:
    return [_word(value) for value in column.tolist()]


def _word(value: Any) -> str:
    """A float32 has become a float64 here, whose digits give both back."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
