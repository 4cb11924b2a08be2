import keras
import numpy as np
import pytest

from agegender.models.prediction import predict_batch


@pytest.fixture
def reader() -> keras.Model:
    """A model that reads its answers from its upper left pixel: green is the age, blue / 255 the probability."""
    image = keras.Input((2, 2, 3))
    flat = keras.layers.Flatten()(image)
    return keras.Model(image, {"age": 2 * flat[:, 1:2] - 20, "gender": flat[:, 2:3] / 255})


def make_images(left: list[int], right: list[int]) -> np.ndarray:
    """Two images that differ in their upper pixels alone."""
    images = np.full((2, 2, 2, 3), 99, "uint8")
    images[:, 0, 0], images[:, 0, 1] = [[0, left[0], 51], [0, left[1], 0]], [[0, right[0], 153], [0, right[1], 0]]
    return images


def test_prediction_by_hand(reader: keras.Model) -> None:
    answers = predict_batch(reader, make_images([20, 30], [30, 40]))
    np.testing.assert_allclose(answers["age"], [20, 40])
    np.testing.assert_allclose(answers["gender"], [0.2, 0])
    assert list(answers) == ["age", "gender"] and answers["age"].dtype == "float32"


def test_flip_averages_over_the_mirror_image(reader: keras.Model) -> None:
    answers = predict_batch(reader, make_images([20, 30], [30, 40]), flip=True)
    np.testing.assert_allclose(answers["age"], [30, 50])  # of 20 and 40, and of 40 and 60
    np.testing.assert_allclose(answers["gender"], [0.4, 0])


def test_ages_are_clipped_to_0_and_116(reader: keras.Model) -> None:
    np.testing.assert_allclose(predict_batch(reader, make_images([5, 70], [5, 70]))["age"], [0, 116])  # -10 and 120


def test_model_without_an_age_head(reader: keras.Model) -> None:
    model = keras.Model(reader.input, {"gender": reader.output["gender"]})
    assert list(predict_batch(model, make_images([5, 70], [5, 70]))) == ["gender"]
