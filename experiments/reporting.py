"""A report on one run, or a comparison of several: what `experiments.evaluate` does, without its flags."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from experiments.runs import home


def report_on(runs: Sequence[str], files: Sequence[str], out: pathlib.Path | None, measure_run: Callable) -> str:
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
