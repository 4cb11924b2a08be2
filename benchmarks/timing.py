"""Times alternatives in turn in one process and reports ratios, which are valid on a machine whose speed drifts.

A benchmark is a module with a function `measure(data_dir, *, rounds=..., ...) -> Result`. Its last line calls `main`,
which makes a flag of every keyword, prints the result as a table and, with `--out`, writes it as JSON.
"""

import dataclasses
import datetime
import gc
import inspect
import json
import os
import pathlib
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import app, flags, logging

from agegender.environment import set_environment
from agegender.training.run_record import list_versions

Row = Mapping[str, str | float | int | None]
_FLAGS: Mapping[type, Callable[..., Any]] = {
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    bool: flags.DEFINE_bool,
}


@dataclasses.dataclass(frozen=True)
class Ratio:
    """A ratio of two times, or another number with a target.

    Attributes:
        name: numerator and denominator.
        values: one for each round; the median counts.
        at_least: target for the median, or
        at_most: target for the median; neither for a ratio without a target.
    """

    name: str
    values: Sequence[float]
    at_least: float | None = None
    at_most: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def reached(self) -> bool | None:
        """Whether the median reaches the target; None without a target."""
        if self.at_least is not None:
            return self.median >= self.at_least
        return None if self.at_most is None else self.median <= self.at_most

    def __str__(self) -> str:
        text = f"{self.name}: {self.median:.4g} ({min(self.values):.4g} to {max(self.values):.4g})"
        if self.reached is None:
            return text
        target = f"{self.at_least:g} or more" if self.at_least is not None else f"{self.at_most:g} or less"
        return f"{text}, target {target}: {'reached' if self.reached else 'NOT REACHED'}"


@dataclasses.dataclass(frozen=True)
class Result:
    """The outcome of a benchmark.

    Attributes:
        title: one line, with the settings that all rows share.
        rows: the table; all rows have the same keys.
        ratios: printed below the table.
    """

    title: str
    rows: Sequence[Row]
    ratios: Sequence[Ratio] = ()

    def __str__(self) -> str:
        return "\n".join([self.title, "", _format_table(self.rows), "", *map(str, self.ratios)])


def time_in_turn(
    functions: Mapping[str, Callable[..., Any]],
    *,
    rounds: int,
    warmup: int = 1,
    setup: Mapping[str, Callable[[], Any]] | None = None,
) -> dict[str, list[float]]:
    """Calls each function once a round, in forward order in one round and in reverse order in the next.

    Args:
        functions: functions of no argument, by name. Each must wait for its own results.
        rounds: how often each function is timed.
        warmup: how often each function is called first, untimed.
        setup: functions by the same names, called untimed before each call; the result is passed to the function.

    Returns:
        Seconds of every call, by name.

    Example:

    >>> {name: len(seconds) for name, seconds in time_in_turn({"a": int, "b": float}, rounds=3).items()}
    {'a': 3, 'b': 3}
    """

    def call(name: str) -> float:
        arguments = () if setup is None else (setup[name](),)
        gc.collect()
        start = time.perf_counter()
        functions[name](*arguments)
        return time.perf_counter() - start

    for name in list(functions) * warmup:
        call(name)
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for index in range(rounds):
        for name in list(functions)[:: -1 if index % 2 else 1]:
            seconds[name].append(call(name))
    return seconds


def divide(seconds: Mapping[str, Sequence[float]], numerator: str, denominator: str) -> list[float]:
    """Divides the times of two functions, round by round.

    >>> divide({"a": [1.0, 3.0], "b": [2.0, 2.0]}, "a", "b")
    [0.5, 1.5]
    """
    return [a / b for a, b in zip(seconds[numerator], seconds[denominator], strict=True)]


def fastest(seconds: Mapping[str, Sequence[float]], prefix: str) -> str:
    """Returns the name with the smallest median among those that start with `prefix`.

    >>> fastest({"ours": [1.0], "bare: map": [3.0, 2.0], "bare: batch": [2.0, 1.5]}, "bare")
    'bare: batch'
    """
    return min((name for name in seconds if name.startswith(prefix)), key=lambda name: statistics.median(seconds[name]))


def make_rows(seconds: Mapping[str, Sequence[float]], *, count: int, unit: str = "ms per image") -> list[Row]:
    """Makes one table row for each function: median, fastest and slowest call, divided by `count`.

    >>> make_rows({"a": [0.2, 0.1, 0.4]}, count=100)
    [{'what': 'a', 'ms per image': 2.0, 'fastest': 1.0, 'slowest': 4.0}]
    """
    scale = {"us": 1e6, "ms": 1e3, "s": 1.0}[unit.split()[0]] / count
    return [
        {"what": name, unit: statistics.median(t) * scale, "fastest": min(t) * scale, "slowest": max(t) * scale}
        for name, t in seconds.items()
    ]


def main(measure: Callable[..., Result], *, strict: bool = False) -> None:
    """Runs a benchmark from the command line: `--data_dir`, `--out` and a flag for each keyword of `measure`.

    With `strict`, the exit code is 1 if a ratio misses its target.
    """
    data_dir = flags.DEFINE_string("data_dir", None, "Where `tfds build` wrote; by default ~/tensorflow_datasets.")
    out = flags.DEFINE_string("out", None, "JSON file for the numbers.")
    options = {}
    for name, parameter in inspect.signature(measure).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY:
            define: Callable[..., Any] = _FLAGS.get(type(parameter.default), flags.DEFINE_string)
            options[name] = define(name, parameter.default, "See the module's docstring.")

    def run(_: list[str]) -> int:
        logging.set_verbosity(logging.WARNING)  # TFDS logs every file that it opens
        set_environment()
        result = measure(data_dir.value, **{name: flag.value for name, flag in options.items()})
        print(f"\n{result}", flush=True)
        if out.value:
            _write(pathlib.Path(out.value), result)
        return int(strict and any(ratio.reached is False for ratio in result.ratios))

    app.run(run)


def describe_machine() -> dict[str, Any]:
    """Returns processor, cores and versions."""
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "bfloat16": any("avx512_bf16" in line for line in lines),
        **list_versions(),
    }


def _write(path: pathlib.Path, result: Result) -> None:
    facts = {
        "command": [pathlib.Path(sys.argv[0]).stem, *sys.argv[1:]],
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "load": os.getloadavg()[0],
        "title": result.title,
        "rows": result.rows,
        "ratios": [{**dataclasses.asdict(r), "median": r.median, "reached": r.reached} for r in result.ratios],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(facts, indent=2) + "\n")


def _format_table(rows: Sequence[Row]) -> str:
    cells = [list(rows[0]), *([_format_cell(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in cells
    )


def _format_cell(value: str | float | int | None) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value
