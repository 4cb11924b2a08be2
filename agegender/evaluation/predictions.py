"""The table of predictions: its columns, its checks, its CSV file, and how two tables of the same images combine."""

import codecs
import csv
import io
import os
import pathlib
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agegender.schema import AGE, AGE_HIGH, AGE_LOW, FILE_NAME, GENDER, GENDERS, GROUP, RACE, RACES

PREDICTED_AGE: Final = "predicted_age"  # years
P_FEMALE: Final = "p_female"  # the model's probability of female, 0 to 1
P_CALIBRATED: Final = "p_female_calibrated"  # after temperature scaling

LABELS: Final = (FILE_NAME, GROUP, AGE, GENDER, RACE)
PREDICTIONS: Final = (PREDICTED_AGE, P_FEMALE, AGE_LOW, AGE_HIGH, P_CALIBRATED)
COLUMNS: Final = LABELS + PREDICTIONS

# A regression may predict an age below 0. NaN and infinity are in none of these ranges.
_RANGES: Final = {
    AGE: (0, 200),
    GENDER: (0, 1),
    RACE: (0, len(RACES) - 1),
    **dict.fromkeys((PREDICTED_AGE, AGE_LOW, AGE_HIGH), (-1000, 1000)),
    **dict.fromkeys((P_FEMALE, P_CALIBRATED), (0, 1)),
}
_CODES: Final = {GENDER: GENDERS, RACE: RACES}

_MAX_BYTES: Final = 500_000_000  # of a CSV file: millions of lines
Table = Mapping[str, NDArray[Any]]  # a column [images] for each name of COLUMNS that is known


def check_table(table: Table) -> None:
    """Raises ValueError if a table cannot be measured.

    It must have predictions with their labels, in columns of equal length, with values that are finite and in range.
    """
    if not {PREDICTED_AGE, P_FEMALE} & set(table):
        raise ValueError(f"A table must have {PREDICTED_AGE!r} or {P_FEMALE!r}. Received columns: {sorted(table)}")
    needed = {PREDICTED_AGE: AGE, P_FEMALE: GENDER, AGE_LOW: AGE_HIGH, AGE_HIGH: AGE_LOW, P_CALIBRATED: P_FEMALE}
    for prediction, label in (*needed.items(), (AGE_LOW, AGE)):
        if prediction in table and label not in table:
            raise ValueError(f"{prediction!r} needs {label!r} beside it. Received columns: {sorted(table)}")
    lengths = {key: len(column) for key, column in table.items()}
    if len(set(lengths.values())) != 1 or not min(lengths.values()):
        raise ValueError(f"The columns must have the same length, at least 1. Received lengths: {lengths}")
    for key in set(table) & set(_RANGES):
        low, high = _RANGES[key]
        wrong = ~((table[key] >= low) & (table[key] <= high))
        if wrong.any():
            raise ValueError(f"{key!r} must be in [{low:g}, {high:g}]. Received: {table[key][wrong][0]}")
    for key in set(table) & set(_CODES):
        wrong = table[key] % 1 != 0
        if wrong.any():
            raise ValueError(f"{key!r} must be a whole number, the code of a class. Received: {table[key][wrong][0]}")


def write_predictions(table: Table, path: str | os.PathLike) -> None:
    """Writes a table of predictions as CSV, every number with all of its digits; gender and race are codes."""
    keys = [key for key in COLUMNS if key in table]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(keys)
        writer.writerows(zip(*(map(_format_value, table[key].tolist()) for key in keys), strict=True))


def read_predictions(path: str | os.PathLike) -> dict[str, NDArray[Any]]:
    """Reads predictions.csv of `write_report`, or the same from another program for another model.

    Args:
        path: a CSV file whose first line names the columns: "age" and "predicted_age" in years, "gender" (0 or
            male, 1 or female) and "p_female", or all four; optionally "file_name", "group", "race" (a code or name of
            `schema.RACES`), "age_low" and "age_high", "p_female_calibrated". Other columns are ignored.

    Returns:
        A table for `measure`: a column [images] for each name.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not such a table.

    Example:

    >>> import pathlib
    >>> from agegender import measure
    >>> _ = pathlib.Path("theirs.csv").write_text("age,predicted_age\\n20,25\\n40,39\\n")
    >>> measure(read_predictions("theirs.csv")).metrics["mae"]
    3.0
    """
    columns = read_csv(path)
    try:
        table: dict[str, NDArray[Any]] = {key: _parse_column(key, columns[key]) for key in COLUMNS if key in columns}
        check_table(table)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return table


def read_csv(path: str | os.PathLike) -> dict[str, list[str]]:
    """Reads a CSV file as a list of strings for each name of its first line.

    Args:
        path: a file in UTF-8, or in UTF-16 with a byte order mark; values are separated by commas, semicolons or tabs.

    Raises:
        ValueError: for another encoding, a name that occurs twice, lines with more or fewer values than the first, and
            more than 500 MB.
    """
    with pathlib.Path(path).open("rb") as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:  # a device may have no end
        raise ValueError(f"{path} must have at most {_MAX_BYTES // 1_000_000} MB")
    try:
        text = content.decode(
            "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
        )
        if "\0" in text:
            raise ValueError("a byte 0")
    except ValueError as error:
        raise ValueError(f"{path} must be a CSV file in UTF-8: save it in that encoding. Received: {error}") from None
    separator = max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        rows = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise ValueError(f"{path}: line {reader.line_num} is not CSV: {error}") from None
    names = [name.strip() for name in rows[0][1]] if rows else []
    if twice := next((name for name in names if name and names.count(name) > 1), None):
        raise ValueError(f"{path} must name each column once. Received {twice!r} several times")
    for line, row in rows:
        if len(row) != len(names):
            raise ValueError(
                f"{path}: line {line} must have {len(names)} values, as the first has. Received: {len(row)}"
            )
    return {name: [row[index] for _, row in rows[1:]] for index, name in enumerate(names)}


def align(
    first: Table, second: Table, first_name: str = "first", second_name: str = "second"
) -> dict[str, NDArray[Any]]:
    """Puts the second table into the order of the first, by file name if both have them.

    Returns:
        The second table, with the labels that only the first has.

    Raises:
        ValueError: if the tables are not of the same images, or differ in a label.
    """
    both = f"{first_name} and {second_name}"
    table = dict(second)
    if FILE_NAME in first and FILE_NAME in second:
        names, order = np.unique(second[FILE_NAME], return_index=True)
        if len(names) != len(second[FILE_NAME]) or not np.array_equal(names, np.sort(first[FILE_NAME])):
            shared = len(np.intersect1d(first[FILE_NAME], names))
            raise ValueError(
                f"{both} must be of the same images, once each. Received: {len(first[FILE_NAME]):,} and "
                f"{len(second[FILE_NAME]):,} images, {shared:,} of the names in both"
            )
        table = {key: column[order][np.searchsorted(names, first[FILE_NAME])] for key, column in second.items()}
    for key in (AGE, GENDER, RACE):
        if key in first and key in second:
            _check_equal(key, first[key], table[key], both)
    return {key: first[key] for key in LABELS if key in first} | table


def join(
    first: Table, second: Table, first_name: str = "first", second_name: str = "second"
) -> dict[str, NDArray[Any]]:
    """Combines the age predictions of one model with the gender predictions of another, for the same images.

    Raises:
        ValueError: if both predict the same, or for other images.
    """
    in_both = [key for key in PREDICTIONS if key in first and key in second]
    if in_both:
        raise ValueError(f"{first_name} and {second_name} cannot be joined: both have {in_both[0]!r}")
    return dict(first) | align(first, second, first_name, second_name)


def _check_equal(key: str, first: NDArray[Any], second: NDArray[Any], both: str) -> None:
    if len(first) != len(second):
        raise ValueError(f"{both} must be of the same images. Received: {len(first):,} and {len(second):,} images")
    different = np.flatnonzero(first != second)
    if len(different):
        row = different[0]
        raise ValueError(
            f"{both} must be of the same images in the same order, but they differ in {key!r} of {len(different):,} "
            f"images. Received: {first[row]:g} and {second[row]:g} in row {row + 1}"
        )


def _parse_column(key: str, values: list[str]) -> NDArray[Any]:
    if key in (FILE_NAME, GROUP):
        return np.array(values, str)
    names = _CODES.get(key, ())
    codes = {name.lower(): float(code) for code, name in enumerate(names)}

    def parse(value: str) -> float:
        name = value.strip().lower()
        return codes[name] if name in codes else float(value)

    try:
        return np.array([parse(value) for value in values], "float64")
    except ValueError as error:
        raise ValueError(f"{key!r} must be numbers{f' or {names}' if names else ''}: {error}") from None


def _format_value(value: Any) -> str:
    """Whole numbers without ".0"; a float32 was converted to float64, whose digits give both back."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
