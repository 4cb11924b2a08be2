import itertools

import keras
import numpy as np
import pytest

import agegender as ag
from agegender.evaluation import evaluate


def model_that_reads() -> keras.Model:
    """Answers with its first pixel: red is the age, green / 255 the probability of female."""
    image = keras.Input((1, 1, 3))
    flat = keras.layers.Flatten()(image)
    outputs = {"age": flat[:, :1], "gender": flat[:, 1:2] / 255}
    return keras.Model(image, outputs)


IMAGES = np.array([[20, 255, 0], [33, 0, 0], [60, 200, 0], [10, 10, 0]], "uint8").reshape(4, 1, 1, 3)
TARGETS = {"age": np.array([[25.0], [30.0], [50.0], [10.0]]), "gender": np.array([[1.0], [1.0], [1.0], [0.0]])}


def batches(*sizes: int) -> list:
    edges = np.cumsum([0, *sizes])
    return [(IMAGES[a:b], {k: v[a:b] for k, v in TARGETS.items()}) for a, b in itertools.pairwise(edges)]


@pytest.mark.parametrize("sizes", [(4,), (2, 2), (3, 1)])
def test_the_report_by_hand_whatever_the_batches(sizes: tuple) -> None:
    report = ag.evaluate(model_that_reads(), batches(*sizes))
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
    assert set(report.intervals.values()) == {None}  # of four images


def test_the_table_names_the_numbers_and_the_count() -> None:
    table = str(ag.evaluate(model_that_reads(), batches(4)))
    for words in ("4 images", "age MAE, years", "4.50", "11.25", "75.0%", "always the median or majority"):
        assert words in table


def test_a_model_with_one_head_is_measured_on_that_head() -> None:
    model = model_that_reads()
    report = ag.evaluate(keras.Model(model.input, {"gender": model.output["gender"]}), batches(4))
    assert set(report.metrics) == {"gender_accuracy", "auc", "log_loss"} and "MAE" not in str(report)
    assert report.groups["age"]["20-29"].count == 1  # its ages are known all the same


def test_predictions_keep_their_order() -> None:
    targets, outputs = evaluate.predict_dataset(model_that_reads(), batches(3, 1))
    np.testing.assert_array_equal(outputs["age"], [20, 33, 60, 10])
    np.testing.assert_array_equal(targets["age"], [25, 30, 50, 10])


def test_further_labels_are_kept_and_names_become_words() -> None:
    labels = {"file_name": np.array([[b"a"], [b"b"], [b"c"], [b"d"]]), "race": np.array([[0.0], [2.0], [2.0], [4.0]])}
    report = ag.evaluate(model_that_reads(), [(IMAGES, TARGETS | labels)])
    assert report.predictions["file_name"].tolist() == ["a", "b", "c", "d"]
    assert {name: part.count for name, part in report.groups["race"].items()} == {"White": 1, "Asian": 2, "Others": 1}
    assert report.groups["gender x race"]["female, Asian"].metrics["mae"] == 6.5


def test_flip_answers_with_the_mean_over_the_mirror_image() -> None:
    image = keras.Input((1, 2, 3))
    model = keras.Model(image, {"age": keras.layers.Flatten()(image)[:, :1]})  # reads the left pixel
    images = np.array([[20, 0, 0, 30, 0, 0]], "uint8").reshape(1, 1, 2, 3)
    data = [(images, {"age": np.array([[25.0]])})]
    assert ag.evaluate(model, data).metrics["mae"] == 5 and ag.evaluate(model, data, flip=True).metrics["mae"] == 0


class Doubtful:
    """A calibration: ten years to each side, and probabilities halfway to one half."""

    coverage, temperature = 0.8, 2.0

    def intervals(self, ages: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return ages - 4, ages + 4

    def probabilities(self, p_female: np.ndarray) -> np.ndarray:
        return (p_female + 0.5) / 2


def test_a_calibration_is_measured_beside_the_model_itself() -> None:
    report = ag.evaluate(model_that_reads(), batches(4), calibration=Doubtful())
    assert report.coverage["nominal"] == 0.8 and report.coverage["all"]["value"] == 0.5
    assert report.coverage["all"]["mean_width"] == 8
    assert report.coverage["groups"]["age"]["50-59"]["value"] == 0
    assert report.calibration["temperature"] == 2.0
    before, after = (report.calibration[stage]["log_loss"]["value"] for stage in ("before", "after"))
    assert before == report.metrics["log_loss"]
    assert after == pytest.approx(-np.mean(np.log([0.75, 0.25, 0.5 * 200 / 255 + 0.25, 1 - (10 / 255 + 0.5) / 2])))


def test_without_a_calibration_there_is_nothing_after_it() -> None:
    report = ag.evaluate(model_that_reads(), batches(4))
    assert report.coverage is None and set(report.calibration) == {"temperature", "before"}


def test_an_empty_dataset_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one batch"):
        ag.evaluate(model_that_reads(), [])


def test_missing_targets_are_named() -> None:
    with pytest.raises(ValueError, match="targets for 'gender'"):
        ag.evaluate(model_that_reads(), [(IMAGES, {"age": TARGETS["age"]})])


def test_an_endless_dataset_is_refused(prepared) -> None:
    endless = ag.load_utkface("train", batch_size=4, training=True, data_dir=prepared)
    with pytest.raises(ValueError, match="must end"):
        ag.evaluate(model_that_reads(), endless)
