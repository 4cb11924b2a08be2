import itertools

import keras
import numpy as np
import pytest

import agegender as ag
from agegender import evaluation


def model_that_reads() -> keras.Model:
    """Answers with its first pixel: red is the age, green / 255 the probability of female."""
    picture = keras.Input((1, 1, 3))
    flat = keras.layers.Flatten()(picture)
    outputs = {"age": flat[:, :1], "gender": flat[:, 1:2] / 255}
    return keras.Model(picture, outputs)


PICTURES = np.array([[20, 255, 0], [33, 0, 0], [60, 200, 0], [10, 10, 0]], "uint8").reshape(4, 1, 1, 3)
TARGETS = {"age": np.array([[25.0], [30.0], [50.0], [10.0]]), "gender": np.array([[1.0], [1.0], [1.0], [0.0]])}


def batches(*sizes: int) -> list:
    edges = np.cumsum([0, *sizes])
    return [(PICTURES[a:b], {k: v[a:b] for k, v in TARGETS.items()}) for a, b in itertools.pairwise(edges)]


@pytest.mark.parametrize("sizes", [(4,), (2, 2), (3, 1)])
def test_the_report_by_hand_whatever_the_batches(sizes: tuple) -> None:
    report = ag.evaluate(model_that_reads(), batches(*sizes))
    assert report.count == 4
    assert report.model == pytest.approx(
        {"mae": 4.5, "rmse": np.sqrt((25 + 9 + 100) / 4), "cs5": 0.75, "gender_accuracy": 0.75}
    )
    # The median age is 27.5, the majority female.
    assert report.constant == pytest.approx(
        {"mae": 11.25, "rmse": np.sqrt((2.5**2 * 2 + 22.5**2 + 17.5**2) / 4), "cs5": 0.5, "gender_accuracy": 0.75}
    )


def test_the_table_names_the_numbers_and_the_count() -> None:
    table = str(ag.evaluate(model_that_reads(), batches(4)))
    for words in ("4 pictures", "age MAE, years", "4.50", "11.25", "75.0%", "always the median or majority"):
        assert words in table


def test_a_model_with_one_head_is_measured_on_that_head() -> None:
    model = model_that_reads()
    report = ag.evaluate(keras.Model(model.input, {"gender": model.output["gender"]}), batches(4))
    assert set(report.model) == {"gender_accuracy"} and "MAE" not in str(report)


def test_predictions_keep_their_order() -> None:
    targets, outputs = evaluation.predict_all(model_that_reads(), batches(3, 1))
    np.testing.assert_array_equal(outputs["age"], [20, 33, 60, 10])
    np.testing.assert_array_equal(targets["age"], [25, 30, 50, 10])


def test_an_empty_dataset_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one batch"):
        ag.evaluate(model_that_reads(), [])


def test_missing_targets_are_named() -> None:
    with pytest.raises(ValueError, match="targets for 'gender'"):
        ag.evaluate(model_that_reads(), [(PICTURES, {"age": TARGETS["age"]})])


def test_an_endless_dataset_is_refused(prepared) -> None:
    endless = ag.load_utkface("train", batch_size=4, training=True, data_dir=prepared)
    with pytest.raises(ValueError, match="must end"):
        ag.evaluate(model_that_reads(), endless)
