import json
import pathlib
import subprocess
import sys

import pytest

from benchmarks import timing

ROOT = pathlib.Path(__file__).parents[2]


def test_functions_run_in_turn_forward_and_backward() -> None:
    called: list[str] = []
    functions = {name: lambda name=name: called.append(name) for name in "abc"}
    seconds = timing.time_in_turn(functions, rounds=3, warmup=1)
    assert "".join(called) == "abc" + "abc" + "cba" + "abc"
    assert [len(times) for times in seconds.values()] == [3, 3, 3]


def test_setup_runs_before_each_call_and_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])

    def advance(seconds: float) -> str:
        clock[0] += seconds
        return "ready"

    received: list[str] = []
    functions = {"a": lambda given: (received.append(given), advance(2))}
    seconds = timing.time_in_turn(functions, rounds=2, warmup=1, setup={"a": lambda: advance(100)})
    assert received == ["ready"] * 3 and seconds == {"a": [2.0, 2.0]}


def test_ratio_is_judged_by_its_median() -> None:
    assert timing.Ratio("x", [0.8, 0.95, 0.9], at_least=0.9).reached is True
    assert timing.Ratio("x", [0.8, 0.95, 0.85], at_least=0.9).reached is False
    assert timing.Ratio("x", [1.0, 1.1, 1.05], at_most=1.03).reached is False
    assert timing.Ratio("x", [1.0]).reached is None
    assert (
        str(timing.Ratio("step", [2.0, 1.0, 3.0], at_least=2.5)) == "step: 2 (1 to 3), target 2.5 or more: NOT REACHED"
    )


def test_result_prints_a_table_and_its_ratios() -> None:
    rows = timing.make_rows({"one": [0.01], "another": [0.02]}, count=10)
    assert str(timing.Result("title", rows, [timing.Ratio("r", [0.5])])).splitlines() == [
        "title",
        "",
        "what     ms per image  fastest  slowest",
        "one                 1        1        1",
        "another             2        2        2",
        "",
        "r: 0.5 (0.5 to 0.5)",
    ]


def test_main_makes_flags_of_keywords_and_writes_json(tmp_path: pathlib.Path) -> None:
    script = """
from benchmarks import timing
def measure(data_dir, *, rounds=2, name="x"):
    times = {"a": [1.0] * rounds, "b": [2.0] * rounds}
    ratio = timing.Ratio("a/b", timing.divide(times, "a", "b"))
    return timing.Result(f"{data_dir} {name}", timing.make_rows(times, count=1), [ratio])
timing.main(measure)
"""
    arguments = ["--data_dir=here", "--rounds=3", "--name=y", f"--out={tmp_path / 'new' / 'out.json'}"]
    done = subprocess.run([sys.executable, "-c", script, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "new" / "out.json").read_text())
    assert (
        found["title"] == "here y" and found["ratios"][0]["values"] == [0.5] * 3 and found["ratios"][0]["median"] == 0.5
    )
    assert "here y" in done.stdout and found["machine"]["cores"] >= 1


@pytest.mark.parametrize(("value", "code"), [(0, 0), (1, 1)])
def test_strict_main_exits_with_1_if_a_target_is_missed(value: int, code: int) -> None:
    script = f"""
from benchmarks import timing
def measure(data_dir, *, x=1):
    return timing.Result("title", [{{"a": 1}}], [timing.Ratio("r", [{value}], at_most=0)])
timing.main(measure, strict=True)
"""
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True).returncode == code
