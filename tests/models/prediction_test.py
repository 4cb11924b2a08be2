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


def test_prediction_by_hand(reader: keras.Model) -> None:
    images = np.zeros((3, 2, 2, 3), "uint8")
    images[:, 0, 0] = [[0, 20, 51], [0, 5, 0], [0, 70, 0]]
    images[:, 0, 1] = [[0, 30, 153], [0, 5, 0], [0, 70, 0]]
    answers = predict_batch(reader, images)
    np.testing.assert_allclose(answers["age"], [20, 0, 116])  # of 20, -10 and 120
    np.testing.assert_allclose(answers["gender"], [0.2, 0, 0])
    assert list(answers) == ["age", "gender"] and answers["age"].dtype == "float32"
    flipped = predict_batch(reader, images, flip=True)
    np.testing.assert_allclose(flipped["age"], [30, 0, 116])  # of 20 and 40
    np.testing.assert_allclose(flipped["gender"], [0.4, 0, 0])
    alone = keras.Model(reader.input, {"gender": reader.output["gender"]})
    assert list(predict_batch(alone, images)) == ["gender"]
