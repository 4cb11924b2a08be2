r"""Evaluates a trained run on a split, or several and how they differ, and writes a report.

    python -m experiments.evaluate --workdir=runs/1 --split=test
    python -m experiments.evaluate --workdir=runs/1 --workdir=runs/2 --out=runs/compared
    python -m experiments.evaluate --predictions=ours.csv --predictions=theirs.csv --out=runs/compared

Writes WORKDIR/evaluation-SPLIT: report.html, one page that needs nothing else, the same as report.md with plots,
report.json, predictions.csv with every prediction, and errors.html and predictions.png, which show faces: those of
UTKFace may not be published. Of several, the first is what the others are compared with, on the same pictures: in
comparison.html, comparison.md and comparison.json. Each may be a run, or a predictions.csv of anybody's model;
AGE+GENDER joins two that have one head each.
"""

import functools
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import app, flags, logging

from experiments.runs import evaluate_run, home

_WORKDIR = flags.DEFINE_multi_string("workdir", [], "Folder of a run, or a .keras file. May be given several times.")
_PREDICTIONS = flags.DEFINE_multi_string("predictions", [], "A predictions.csv to compare, after the runs.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where `tfds build` wrote; by default ~/tensorflow_datasets.")
_SPLIT = flags.DEFINE_string("split", "test", "train, validation, test, all, or a slice such as 'test[:10%]'.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Pictures a step.", lower_bound=1)
_FLIP = flags.DEFINE_bool(
    "flip", None, "Answer with the mean over each picture and its mirror image; by default as the run was calibrated."
)
_OUT = flags.DEFINE_string(
    "out",
    None,
    "Folder to write to; by default evaluation-SPLIT, or comparison, in the (first) workdir.",
)


def run(runs: Sequence[str], files: Sequence[str], out: pathlib.Path | None, measure_run: Callable) -> str:
    """Evaluates one run, or compares several models.

    Args:
        runs: folders or .keras files, or two joined by "+".
        files: of predictions, or two joined by "+".
        out: folder to write to.
        measure_run: `evaluate_run` with all but the run.

    Returns:
        What to print.
    """
    if not runs and not files:
        raise ValueError("--workdir must have a value, or --predictions; --help says more")
    if len(runs) == 1 and not files and len(_parts(runs[0])) == 1:
        measure_run(pathlib.Path(runs[0]), out=out)
        return ""
    if out is None and (not runs or len(runs) + len(files) == 1):
        raise ValueError("--out must say where this report goes: it belongs to no single run")
    from agegender import measure, read_predictions, write_report
    from experiments.compare import compare, summary, write_comparison

    tables = {given: _joined(given, read_predictions) for given in files}  # what is wrong is said before a model runs
    tables = {given: _joined(given, lambda path: measure_run(path).predictions) for given in runs} | tables
    folder = out or home(pathlib.Path(_parts(runs[0])[0])) / "comparison"
    if len(tables) == 1:
        ((name, table),) = tables.items()
        report = measure(table)
        return f"\n{report}\n\nReport: {write_report(report, folder, title=name)}"
    comparison = compare(tables)
    page = write_comparison(comparison, folder)
    return f"\n{summary(comparison)}\n\nComparison: {page}"


def _parts(given: str) -> list[str]:
    return [given] if pathlib.Path(given).exists() else given.split("+")


def _joined(given: str, get: Callable[[pathlib.Path], Any]) -> Any:
    from experiments.compare import join

    first, *others = _parts(given)
    table = get(pathlib.Path(first))
    for other in others:
        table = join(table, get(pathlib.Path(other)), first, other)
    return table


def _paths(given: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(path for paths in given for path in paths.split(",")))


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)  # TFDS tells of each file it opens
    try:
        measure_run = functools.partial(
            evaluate_run, split=_SPLIT.value, data_dir=_DATA_DIR.value, batch_size=_BATCH_SIZE.value, flip=_FLIP.value
        )
        out = pathlib.Path(_OUT.value) if _OUT.value else None
        print(run(_paths(_WORKDIR.value), _paths(_PREDICTIONS.value), out, measure_run))
    except (OSError, FloatingPointError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")  # the words say it all; a traceback would hide them


if __name__ == "__main__":
    app.run(main)
