"""Times things in turn in one process, and says it as ratios: on a machine whose speed drifts, those still hold.

A benchmark is a module with a function `measure(data_dir, *, rounds=..., ...) -> Result`; its last line calls `main`,
which makes a flag of every keyword, prints the result as a table and writes it as JSON.
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
class Claim:
    """A ratio of two things timed in turn, and the mark it should reach.

    Attributes:
        what: over what, in words.
        ratios: one for each round.
        at_least: the mark for the median, or
        at_most: the mark for the median; neither for a ratio that is only told.
    """

    what: str
    ratios: Sequence[float]
    at_least: float | None = None
    at_most: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.ratios)

    @property
    def reached(self) -> bool | None:
        """Whether the median reaches the mark; None without one."""
        if self.at_least is not None:
            return self.median >= self.at_least
        return None if self.at_most is None else self.median <= self.at_most

    def __str__(self) -> str:
        mark = f", {self.at_least:g} or more" if self.at_least is not None else ""
        mark += f", {self.at_most:g} or less" if self.at_most is not None else ""
        verdict = "" if self.reached is None else f" wanted: {'reached' if self.reached else 'NOT REACHED'}"
        return f"{self.what}: {self.median:.4g} ({min(self.ratios):.4g} to {max(self.ratios):.4g}{mark}{verdict})"


@dataclasses.dataclass(frozen=True)
class Result:
    """What a benchmark found.

    Attributes:
        title: one line, with what does not change between the rows.
        rows: the table; all rows have the same keys.
        claims: the ratios.
    """

    title: str
    rows: Sequence[Row]
    claims: Sequence[Claim] = ()

    def __str__(self) -> str:
        return "\n".join([self.title, "", _table(self.rows), "", *map(str, self.claims)])


def in_turn(
    contestants: Mapping[str, Callable[..., Any]],
    *,
    rounds: int,
    warmup: int = 1,
    prepare: Mapping[str, Callable[[], Any]] | None = None,
) -> dict[str, list[float]]:
    """Calls each contestant once a round, forwards in one round and backwards in the next.

    Args:
        contestants: functions of no argument, by name; each must wait for its own results.
        rounds: how often each is timed, 1 or more.
        warmup: how often each is called first, untimed.
        prepare: functions by the same names, called before each call and not timed; their result is its argument.

    Returns:
        Seconds of every call, by name, in the order of the rounds.

    Example:

    >>> {name: len(times) for name, times in in_turn({"a": int, "b": float}, rounds=3).items()}
    {'a': 3, 'b': 3}
    """

    def call(name: str) -> float:
        given = () if prepare is None else (prepare[name](),)
        gc.collect()
        start = time.perf_counter()
        contestants[name](*given)
        return time.perf_counter() - start

    for name in list(contestants) * warmup:
        call(name)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds):
        for name in list(contestants)[:: -1 if turn % 2 else 1]:
            seconds[name].append(call(name))
    return seconds


def ratios(seconds: Mapping[str, Sequence[float]], over: str, under: str) -> list[float]:
    """Divides the times of two contestants, round by round.

    >>> ratios({"a": [1.0, 3.0], "b": [2.0, 2.0]}, "a", "b")
    [0.5, 1.5]
    """
    return [a / b for a, b in zip(seconds[over], seconds[under], strict=True)]


def rows(seconds: Mapping[str, Sequence[float]], *, count: int, unit: str = "ms a image") -> list[Row]:
    """One row a contestant: median, fastest and slowest, of `count` images each.

    >>> rows({"a": [0.2, 0.1, 0.4]}, count=100)
    [{'what': 'a', 'ms a image': 2.0, 'fastest': 1.0, 'slowest': 4.0}]
    """
    scale = {"us": 1e6, "ms": 1e3, "s": 1.0}[unit.split()[0]] / count
    return [
        {"what": name, unit: statistics.median(t) * scale, "fastest": min(t) * scale, "slowest": max(t) * scale}
        for name, t in seconds.items()
    ]


def resident(kind: str = "RssAnon") -> float:
    """Returns a line of /proc/self/status in MB: VmRSS and VmHWM, now and at the peak, or RssAnon, without files."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith(f"{kind}:"))


def machine() -> dict[str, Any]:
    """What the times belong to: processor, cores, versions."""
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "bfloat16": any("avx512_bf16" in line for line in lines),
        **list_versions(),
    }


def main(measure: Callable[..., Result]) -> None:
    """Runs a benchmark from the command line: `--data_dir`, `--out` and a flag for each keyword of `measure`."""
    data_dir = flags.DEFINE_string("data_dir", None, "Where `tfds build` wrote; by default ~/tensorflow_datasets.")
    out = flags.DEFINE_string("out", None, "File for the numbers as JSON.")
    options = {}
    for name, parameter in inspect.signature(measure).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY:
            define: Callable[..., Any] = _FLAGS.get(type(parameter.default), flags.DEFINE_string)
            options[name] = define(name, parameter.default, "See above.")

    def run(_: list[str]) -> None:
        logging.set_verbosity(logging.WARNING)  # TFDS tells of each file it opens
        set_environment()
        result = measure(data_dir.value, **{name: flag.value for name, flag in options.items()})
        print(f"\n{result}", flush=True)
        if out.value:
            _write(pathlib.Path(out.value), result)

    app.run(run)


def _write(path: pathlib.Path, result: Result) -> None:
    claims = [{**dataclasses.asdict(c), "median": c.median, "reached": c.reached} for c in result.claims]
    facts = {
        "command": [pathlib.Path(sys.argv[0]).stem, *sys.argv[1:]],
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "load": os.getloadavg()[0],
        "title": result.title,
        "rows": result.rows,
        "claims": claims,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(facts, indent=2) + "\n")


def _table(rows: Sequence[Row]) -> str:
    cells = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in cells
    )


def _cell(value: str | float | int | None) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value
