"""Models evaluated on batches, and runs on the prepared data set."""

import dataclasses
import itertools
import json
import pathlib
import shutil

import keras
import numpy as np
import pytest
from PIL import Image
from tiny_utkface import prepare

import agegender as ag


def build_reader(size: int = 1) -> keras.Model:
    """A model that reads its answers from its first pixel: red is the age, green / 255 the probability of female."""
    image = keras.Input((size, size, 3))
    flat = keras.layers.Flatten()(image)
    return keras.Model(image, {"age": flat[:, :1], "gender": flat[:, 1:2] / 255})


IMAGES = np.array([[20, 255, 0], [33, 0, 0], [60, 200, 0], [10, 10, 0]], "uint8").reshape(4, 1, 1, 3)
TARGETS = {"age": np.array([[25.0], [30.0], [50.0], [10.0]]), "gender": np.array([[1.0], [1.0], [1.0], [0.0]])}


def split(*sizes: int) -> list:
    edges = np.cumsum([0, *sizes])
    return [(IMAGES[a:b], {k: v[a:b] for k, v in TARGETS.items()}) for a, b in itertools.pairwise(edges)]


@pytest.mark.parametrize("sizes", [(4,), (3, 1)])
def test_report_by_hand_for_any_batches(sizes: tuple) -> None:
    report = ag.evaluate(build_reader(), split(*sizes))
    assert report.count == 4
    assert report.metrics == pytest.approx(
        {
            **{"mae": 4.5, "rmse": np.sqrt((25 + 9 + 100) / 4), "median_error": 4.0, "bias": (-5 + 3 + 10 + 0) / 4},
            **{"cs5": 0.75, "gender_accuracy": 0.75, "auc": 2 / 3},
            "log_loss": -(np.log(1 - 1e-7) + np.log(1e-7) + np.log(200 / 255) + np.log(245 / 255)) / 4,
        },
        rel=1e-6,
    )
    # The median age is 27.5, three of four are women.
    assert report.baseline == pytest.approx(
        {
            **{"mae": 11.25, "rmse": np.sqrt((2.5**2 * 2 + 22.5**2 + 17.5**2) / 4), "median_error": 10.0},
            **{"bias": (2.5 - 2.5 - 22.5 + 17.5) / 4, "cs5": 0.5, "gender_accuracy": 0.75, "auc": 0.5},
            "log_loss": -(3 * np.log(0.75) + np.log(0.25)) / 4,
        }
    )
    assert report.coverage is None and set(report.calibration) == {"temperature", "before"}


def test_model_with_one_head_is_measured_on_that_head() -> None:
    model = build_reader()
    report = ag.evaluate(keras.Model(model.input, {"gender": model.output["gender"]}), split(4))
    assert set(report.metrics) == {"gender_accuracy", "auc", "log_loss"} and "MAE" not in str(report)
    assert report.groups["age"]["20-29"].count == 1  # its ages are known all the same


def test_targets_may_be_a_tuple_in_head_order() -> None:
    batch = (IMAGES, (TARGETS["age"], TARGETS["gender"]))
    assert ag.evaluate(build_reader(), [batch]) == ag.evaluate(build_reader(), split(4))


def test_further_labels_are_kept() -> None:
    labels = {"file_name": np.array([[b"a"], [b"b"], [b"c"], [b"d"]]), "race": np.array([[0.0], [2.0], [2.0], [4.0]])}
    report = ag.evaluate(build_reader(), [(IMAGES, TARGETS | labels)])
    assert report.predictions["file_name"].tolist() == ["a", "b", "c", "d"]
    assert report.predictions["predicted_age"].tolist() == [20, 33, 60, 10]
    assert {name: part.count for name, part in report.groups["race"].items()} == {"White": 1, "Asian": 2, "Others": 1}
    assert report.groups["gender x race"]["female, Asian"].metrics["mae"] == 6.5


def test_flip_averages_over_the_mirror_image() -> None:
    model = build_reader(size=2)
    model = keras.Model(model.input, {"age": model.output["age"]})
    images = np.zeros((1, 2, 2, 3), "uint8")
    images[0, 0, :, 0] = 20, 30  # the model reads the left pixel
    data = [(images, {"age": np.array([[25.0]])})]
    assert ag.evaluate(model, data).metrics["mae"] == 5 and ag.evaluate(model, data, flip=True).metrics["mae"] == 0


def test_calibration_is_measured_beside_the_model() -> None:
    """Intervals of four years to each side between 10 and 60 years, and halved logits."""
    tables = {"ages": (10.0, 60.0), "low": (6.0, 56.0), "high": (14.0, 64.0)}
    calibration = ag.Calibration(coverage=0.8, **tables, temperature=2.0, count=500)
    report = ag.evaluate(build_reader(), split(4), calibration=calibration)
    coverage = report.coverage  # 25 in 16..24? 30 in 29..37? 50 in 56..64? 10 in 6..14?
    assert (coverage["nominal"], coverage["all"]["value"], coverage["all"]["mean_width"]) == (0.8, 0.5, 8)
    assert coverage["groups"]["age"]["50-59"]["value"] == 0
    assert report.calibration["temperature"] == 2.0
    before, after = (report.calibration[stage]["log_loss"]["value"] for stage in ("before", "after"))
    odds = np.sqrt([(1 - 1e-7) / 1e-7, 1e-7 / (1 - 1e-7), 200 / 55, 245 / 10])  # of the recorded gender
    assert before == report.metrics["log_loss"] and after == pytest.approx(
        -np.mean(np.log(odds / (1 + odds))), rel=1e-5
    )


def test_batch_that_breaks_the_contract_is_named() -> None:
    for images, targets, words in (
        (IMAGES.repeat(2, 1), TARGETS, r"shape=\[4, 2, 1, 3\]"),
        (IMAGES, TARGETS | {"age": TARGETS["age"] + 2014}, "age=2039"),
        (IMAGES, {"age": TARGETS["age"]}, r"\['age', 'gender'\]"),
    ):
        with pytest.raises(ValueError, match=f"Batch 2 of `dataset`.*{words}"):
            ag.evaluate(build_reader(), [*split(4), (images, targets)])


def test_empty_dataset_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one batch"):
        ag.evaluate(build_reader(), [])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run that was calibrated without flip."""
    folder = tmp_path_factory.mktemp("run")
    trunk = keras.Sequential([keras.Input((48, 48, 3)), keras.layers.GlobalAveragePooling2D()])
    ag.build_model(trunk).save(folder / "best.keras")
    tables = {"ages": (0.0, 100.0), "low": (0.0, 80.0), "high": (30.0, 116.0)}
    ag.Calibration(coverage=0.9, **tables, temperature=2.0, count=500).save(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    rows = [{"age": 20 + n, "gender": n % 2, "race": n % 5} for n in range(12)]
    return prepare(tmp_path_factory.mktemp("data"), {"train": rows, "validation": rows[:1], "test": rows[:10]})


def test_run_is_evaluated_on_a_split(
    run: pathlib.Path, data: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    report = ag.evaluate_run(run, "train", data_dir=data, out=out, batch_size=5, verbose=1)
    assert "3/3 [" in capsys.readouterr().err  # batches, of 5, 5 and 2 images
    assert report.count == 12 and report.metrics["mae"] == pytest.approx(7.5, abs=1e-4)  # always 33 years
    assert report.coverage["nominal"] == 0.9 and report.bootstrap["resampled"] == "photograph groups"
    assert len(report.groups["race"]) == 5
    names = {path.name for path in out.iterdir()}
    assert {"report.html", "report.json", "predictions.csv", "errors.html", "predictions.png"} <= names
    assert f"{run} on train" in (out / "report.html").read_text()
    assert (out / "errors.html").read_text().count("data:image/jpeg") == 12 + 6
    with Image.open(out / "predictions.png") as image:
        assert image.size == (1200, 600)
    assert ag.evaluate_run(run / "best.keras", "train[:50%]", data_dir=data).count == 6
    assert capsys.readouterr().err == ""


def test_missing_model_leaves_no_folder(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match="There is no trained model"):
        ag.evaluate_run(tmp_path / "none", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_released_model_is_evaluated_by_default(data: pathlib.Path, tmp_path: pathlib.Path) -> None:
    report = ag.evaluate_run(data_dir=data, out=tmp_path)
    assert report.count == 10 and report.coverage["nominal"] == 0.95
    assert "The released model on test" in (tmp_path / "report.html").read_text()
    ages = [photograph[0].age for photograph in ag.Predictor(aligned=True)(read_images(data))]
    assert sorted(report.predictions["predicted_age"]) == pytest.approx(sorted(ages), abs=0.01)


def read_images(data: pathlib.Path) -> np.ndarray:
    ((images, _),) = ag.load_utkface("test", batch_size=10, image_size=64, data_dir=data)
    return images.numpy()


@pytest.mark.parametrize("flip", [False, True])
def test_calibration_is_measured_with_the_flip_that_it_was_fitted_with(
    run: pathlib.Path, data: pathlib.Path, tmp_path: pathlib.Path, flip: bool
) -> None:
    shutil.copy(run / "best.keras", tmp_path)
    dataclasses.replace(ag.load_calibration(run), flip=flip).save(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({"data_dir": str(data)}))  # where it was trained
    reports = [ag.evaluate_run(tmp_path, flip=each) for each in (None, not flip)]
    assert [report.coverage is not None for report in reports] == [True, False]
    assert reports[0].count == 10  # the test split


def test_endless_dataset_is_refused(data: pathlib.Path) -> None:
    endless = ag.load_utkface("train", batch_size=4, training=True, data_dir=data)
    with pytest.raises(ValueError, match="must end"):
        ag.evaluate(build_reader(), endless)
