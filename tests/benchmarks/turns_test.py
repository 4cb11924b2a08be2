import json
import pathlib
import subprocess
import sys
import time

import pytest

from benchmarks import turns

ROOT = pathlib.Path(__file__).parents[2]


def test_contestants_take_turns_forwards_and_backwards() -> None:
    called: list[str] = []
    contestants = {name: lambda name=name: called.append(name) for name in "abc"}
    turns.in_turn(contestants, rounds=3, warmup=1)
    assert "".join(called) == "abc" + "abc" + "cba" + "abc"


def test_what_is_prepared_is_given_to_the_contestant_and_not_timed() -> None:
    prepare = {"a": lambda: time.sleep(0.2) or "ready"}
    given: list[str] = []
    seconds = turns.in_turn({"a": given.append}, rounds=2, warmup=1, prepare=prepare)
    assert given == ["ready"] * 3 and max(seconds["a"]) < 0.1


def test_a_claim_is_judged_by_its_median() -> None:
    assert turns.Claim("x", [0.8, 0.95, 0.9], at_least=0.9).reached is True
    assert turns.Claim("x", [0.8, 0.95, 0.85], at_least=0.9).reached is False
    assert turns.Claim("x", [1.0, 1.1, 1.05], at_most=1.03).reached is False
    assert turns.Claim("x", [1.0]).reached is None
    assert str(turns.Claim("step", [2.0, 1.0, 3.0], at_least=2.5)) == (
        "step: 2 (1 to 3, 2.5 or more wanted: NOT REACHED)"
    )


def test_a_result_is_a_table_with_its_ratios_below() -> None:
    result = turns.Result("title", turns.rows({"one": [0.01], "another": [0.02]}, count=10), [turns.Claim("r", [0.5])])
    assert str(result).splitlines() == [
        "title",
        "",
        "what     ms a image  fastest  slowest",
        "one                 1        1        1",
        "another             2        2        2",
        "",
        "r: 0.5 (0.5 to 0.5)",
    ]


def test_every_keyword_is_a_flag_and_the_numbers_are_json(tmp_path: pathlib.Path) -> None:
    script = """
from benchmarks import turns
def measure(data_dir, *, rounds=2, name="x"):
    times = turns.in_turn({"a": lambda: sum(range(10**5)), "b": lambda: sum(range(10**5))}, rounds=rounds)
    claim = turns.Claim("a/b", turns.ratios(times, "a", "b"))
    return turns.Result(f"{data_dir} {name}", turns.rows(times, count=1), [claim])
turns.main(measure)
"""
    arguments = ["--data_dir=here", "--rounds=3", "--name=y", f"--out={tmp_path / 'new' / 'out.json'}"]
    done = subprocess.run([sys.executable, "-c", script, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "new" / "out.json").read_text())
    assert found["title"] == "here y" and len(found["claims"][0]["ratios"]) == 3
    assert found["claims"][0]["median"] == pytest.approx(1, rel=0.9)
    assert "here y" in done.stdout and found["machine"]["cores"] >= 1
