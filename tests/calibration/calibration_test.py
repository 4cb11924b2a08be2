"""The temperature, the calibration file, and invalid arguments."""

import json
import math
import pathlib

import numpy as np
import pytest
import scipy.optimize

import agegender as ag
from agegender.schema import CALIBRATION

TABLES = {"ages": (0.0, 50.0, 100.0), "low": (0.0, 40.0, 80.0), "high": (10.0, 60.0, 116.0)}
CALIBRATED = ag.Calibration(coverage=0.9, **TABLES, temperature=2.0, count=500)


def draw_genders(count: int, *, sharpness: float, seed: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Genders drawn with true probabilities, and those probabilities with their logits times `sharpness`."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=count) * 2
    return (random.random(count) < 1 / (1 + np.exp(-logits))) * 1.0, 1 / (1 + np.exp(-sharpness * logits))


def test_interval_is_interpolated_and_constant_outside() -> None:
    low, high = CALIBRATED.intervals([[25.0], [-3.0], [140.0]])
    assert low.tolist() == [[20], [0], [80]] and high.tolist() == [[35], [10], [116]]


def test_temperature_of_two_halves_the_logit() -> None:
    p_female = np.array([0.0, 0.2, np.nextafter(np.float32(0.5), np.float32(0)), 0.5, 0.8, 1.0])
    calibrated = CALIBRATED.probabilities(p_female)
    assert calibrated[1] == pytest.approx(1 / 3) and calibrated[4] == pytest.approx(2 / 3)  # odds of 4 become odds of 2
    assert np.all((calibrated >= 0.5) == (p_female >= 0.5)) and calibrated[3] == 0.5
    assert calibrated[[0, 5]] == pytest.approx([1 / (1 + math.sqrt(1e7)), 1 / (1 + math.sqrt(1e-7))], rel=1e-4)


@pytest.mark.parametrize("sharpness", [3.0, 0.5, 1.234])
def test_temperature_minimises_the_log_loss(sharpness: float) -> None:
    genders, p_female = draw_genders(2000, sharpness=sharpness)

    def compute_log_loss(temperature: float) -> float:
        clipped = np.clip(p_female, 1e-7, 1 - 1e-7)
        odds = (clipped / (1 - clipped)) ** (1 / temperature)
        return -np.mean(np.log(np.where(genders == 1, odds, 1) / (1 + odds)))

    expected = scipy.optimize.minimize_scalar(
        compute_log_loss, bounds=(0.1, 10), method="bounded", options={"xatol": 1e-8}
    )
    temperature = ag.calibrate({"gender": genders}, {"gender": p_female}).temperature
    assert temperature == pytest.approx(expected.x, abs=2e-5) == pytest.approx(sharpness, rel=0.1)


def test_temperature_is_bounded() -> None:
    genders = np.arange(200) % 2
    assert ag.calibrate({"gender": genders}, {"gender": genders * 1.0}).temperature == pytest.approx(0.1, rel=1e-5)
    assert ag.calibrate({"gender": genders}, {"gender": 1.0 - genders}).temperature == pytest.approx(10, rel=1e-5)


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_heads_are_calibrated_together_or_alone(shape: tuple) -> None:
    ages = np.arange(400.0) % 80
    genders, p_female = draw_genders(400, sharpness=2)
    targets = {"age": ages.reshape(shape), "gender": genders.reshape(shape)}
    outputs = {"age": (0.8 * ages + 5).reshape(shape), "gender": p_female.reshape(shape)}
    both = ag.calibrate(targets, outputs, coverage=0.8, flip=True)
    age, gender = (ag.calibrate(targets, {head: outputs[head]}, coverage=0.8) for head in ("age", "gender"))
    assert (both.ages, both.low, both.high, both.temperature) == (age.ages, age.low, age.high, gender.temperature)
    assert (both.coverage, both.count, both.flip, age.flip) == (0.8, 400, True, False)
    with pytest.raises(ValueError, match="needs a calibration of an age head"):
        gender.intervals(30)
    with pytest.raises(ValueError, match="needs a calibration of a gender head"):
        age.probabilities(0.5)


def test_coverage_is_95_percent_by_default() -> None:
    ages = np.arange(400.0) % 80
    predicted = ages + np.random.default_rng(0).normal(size=400) * 5
    default = ag.calibrate({"age": ages}, {"age": predicted})
    assert default == ag.calibrate({"age": ages}, {"age": predicted}, coverage=0.95)
    narrow = ag.calibrate({"age": ages}, {"age": predicted}, coverage=0.5)
    assert np.all(np.subtract(narrow.high, narrow.low)[40:120] < np.subtract(default.high, default.low)[40:120])


def test_calibration_is_found_beside_its_model(tmp_path: pathlib.Path) -> None:
    assert ag.load_calibration(tmp_path) is None
    CALIBRATED.save(tmp_path)
    assert ag.load_calibration(tmp_path / "theirs.keras") == CALIBRATED  # the only model
    (tmp_path / "best.keras").touch()
    for path in (tmp_path, str(tmp_path / CALIBRATION), tmp_path / "best.keras"):
        assert ag.load_calibration(path) == CALIBRATED
    assert ag.load_calibration(tmp_path / "last.keras") is None  # the file belongs to best.keras


def test_calibration_of_one_head_is_saved_to_a_file(tmp_path: pathlib.Path) -> None:
    one = ag.Calibration(coverage=0.8, ages=None, low=None, high=None, temperature=1.5, count=100, flip=True)
    one.save(tmp_path / "other.json")
    assert ag.load_calibration(tmp_path / "other.json") == one


VALID = {"version": 1, "coverage": 0.9, "ages": [0, 1], "low": [0, 1], "high": [2, 3], "temperature": 1, "count": 100,
         "flip": False}  # fmt: skip


def test_limits_are_valid(tmp_path: pathlib.Path) -> None:
    for change in ({"temperature": 1e-3}, {"temperature": 1e3}, {"high": [2, 116]}, {"low": [2, 3]}, {"count": 1}):
        (tmp_path / CALIBRATION).write_text(json.dumps(VALID | change))
        assert ag.load_calibration(tmp_path) is not None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "Expecting value"),
        ("[]", ""),
        (json.dumps(VALID)[:-9], ""),
        (json.dumps(VALID) + " " * 1_000_000, "more than 1,000,000 bytes"),
        *(
            (json.dumps({**VALID, **change}), reason)
            for change, reason in (
                ({"version": 2}, "version 1"),
                ({"coverage": 1.5}, "`coverage` must be between 0 and 1"),
                ({"coverage": None}, ""),
                ({"low": [0]}, "Received: 2, 1, 2 rows"),
                ({"low": None}, "together or not at all"),
                ({"low": ["x", 1]}, ""),
                ({"low": "01"}, "list of numbers"),
                ({"low": [3, 3]}, "`low` <= `high`"),
                ({"low": [-1, 1]}, "0 <= `low`"),
                ({"high": [2, 116.5]}, "<= 116"),
                ({"high": [2, math.nan]}, "`high`"),
                ({"ages": [1, 1]}, "`ages` must increase"),
                ({"ages": [0, math.inf]}, "`ages` must increase"),
                ({"ages": [], "low": [], "high": []}, "2 or more"),
                ({"ages": [1], "low": [1], "high": [1]}, "2 or more"),
                ({"temperature": 0}, "`temperature` must be in 0.001..1000"),
                ({"temperature": 1001}, "`temperature` must be in 0.001..1000"),
                ({"more": 1}, "more"),
                ({"flip": "yes"}, "`flip`.*'yes'"),
                ({"count": -3}, "`count`.*-3"),
                ({"count": 0}, "`count`.*0"),
                ({"count": True}, "`count`.*True"),
                ({"count": "many"}, "`count`.*many"),
            )
        ),
    ],
)
def test_damaged_file_is_named(tmp_path: pathlib.Path, content: str, reason: str) -> None:
    (tmp_path / CALIBRATION).write_text(content)
    with pytest.raises(
        ValueError, match=rf"calibration\.json is not a valid calibration: .*{reason}.*experiments\.calibrate"
    ):
        ag.load_calibration(tmp_path)


@pytest.mark.parametrize(
    ("targets", "outputs", "words"),
    [
        ({"age": [30.0] * 99}, {"age": [30.0] * 99}, "100 images or more. Received: 99"),
        ({"age": [30.0] * 200}, {"age": [30.0] * 201}, r"one length. Received lengths: \[200, 201\]"),
        ({"age": [30.0] * 200}, {"age": [math.nan] * 200}, "finite ages.*Received: age=nan"),
        ({"age": [math.nan] * 200}, {"age": [30.0] * 200}, r"ages in 0\.\.116.*Received: age=nan"),
        ({"age": [117.0] * 200}, {"age": [30.0] * 200}, r"Received: age=117"),
        ({"age": [0.0] * 199 + [-1]}, {"age": [30.0] * 200}, r"Received: age=-1"),
        ({"gender": [1.0] * 200}, {"gender": [1.1] * 200}, r"probabilities in 0\.\.1. Received: gender=1.1"),
        ({"gender": [1.0] * 200}, {"gender": [-0.1] * 200}, "Received: gender=-0.1"),
        ({"gender": [0.5] * 200}, {"gender": [0.5] * 200}, "genders 0 or 1. Received: gender=0.5"),
        ({"age": [30.0] * 200}, {"gender": [0.5] * 200}, r"heads of `outputs`. Received: \['age'\], \['gender'\]"),
        ({"age": [30.0] * 200}, {}, "heads of `outputs`"),
        ({"age": [30.0] * 200, "race": [1] * 200}, {"race": [1] * 200}, "heads of `outputs`"),
    ],
)
def test_invalid_predictions_are_refused(targets: dict, outputs: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ag.calibrate(targets, outputs)


def test_limits_of_labels_and_predictions_are_valid() -> None:
    ends = np.tile([0.0, 116.0], 50)
    assert ag.calibrate({"age": ends}, {"age": ends}).count == 100
    assert ag.calibrate({"gender": ends / 116}, {"gender": ends / 116}).count == 100


@pytest.mark.parametrize("coverage", [0, 1, 95, math.nan])
def test_coverage_out_of_range_is_refused(coverage: float) -> None:
    with pytest.raises(ValueError, match=f"`coverage` must be between 0 and 1. Received: coverage={coverage}"):
        ag.calibrate({"age": [30.0] * 200}, {"age": [30.0] * 200}, coverage=coverage)
