import keras
import numpy as np
import pytest

from agegender.models import losses
from agegender.schema import AGE_STD

TARGETS = {"age": np.array([[30.0], [1.0], [80.0]]), "gender": np.array([[1.0], [0.0], [1.0]])}
OUTPUTS = {"age": np.array([[50.0], [1.0], [70.0]]), "gender": np.array([[0.5], [0.25], [0.9]])}


def by_numpy(age_weight: float, gender_weight: float) -> float:
    mse = np.mean(((TARGETS["age"] - OUTPUTS["age"]) / AGE_STD) ** 2)
    g, p = TARGETS["gender"], OUTPUTS["gender"]
    return age_weight * mse + gender_weight * -np.mean(g * np.log(p) + (1 - g) * np.log(1 - p))


@pytest.mark.parametrize(("age_weight", "gender_weight"), [(1, 1), (2, 0.5), (0, 1), (1, 0)])
def test_joint_loss_matches_numpy(age_weight: float, gender_weight: float) -> None:
    loss = losses.joint_loss(TARGETS, OUTPUTS, {"age": age_weight, "gender": gender_weight})
    assert float(loss) == pytest.approx(by_numpy(age_weight, gender_weight), rel=1e-5)


def test_age_loss_by_hand() -> None:
    # Errors of 20, 0 and 10 years are 1, 0 and 0.5 standard deviations.
    np.testing.assert_allclose(losses.age_loss(TARGETS["age"], OUTPUTS["age"]), [1.0, 0.0, 0.25])


def test_gender_loss_by_hand() -> None:
    expected = [np.log(2), -np.log(0.75), -np.log(0.9)]
    np.testing.assert_allclose(losses.gender_loss(TARGETS["gender"], OUTPUTS["gender"]), expected, rtol=1e-5)
    # -log(1e-7), and -log of the distance from 1 to the float32 below it but one.
    wrong = losses.gender_loss(np.array([[1.0], [0.0]]), np.array([[0.0], [1.0]]))
    np.testing.assert_allclose(wrong, [16.118, -np.log(2**-23)], rtol=1e-4)


def test_joint_loss_of_one_head() -> None:
    assert float(losses.joint_loss(TARGETS, {"age": OUTPUTS["age"]})) == pytest.approx(1.25 / 3)


def test_compiled_model_has_the_joint_loss() -> None:
    image = keras.Input((1,))
    outputs = {
        "age": keras.layers.Dense(1, name="age")(image),
        "gender": keras.layers.Dense(1, activation="sigmoid", name="gender")(image),
    }
    model = keras.Model(image, outputs)
    weights = {"age": 0.7, "gender": 3.0}
    frozen = keras.optimizers.SGD(0.0)
    model.compile(frozen, **losses.compile_losses(["age", "gender"], weights))
    x = np.array([[0.1], [0.2], [0.3]])
    expected = float(losses.joint_loss(TARGETS, model(x), weights))
    history = model.fit(x, TARGETS, batch_size=2, shuffle=False, verbose=0)
    assert history.history["loss"][0] == pytest.approx(expected, rel=1e-5)
    assert model.evaluate(x, TARGETS, verbose=0, return_dict=True)["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("weights", [{"age": -1.0}, {"age": np.nan}, {"age": np.inf}, {"age": 0.0}, {"gender": 1.0}])
def test_wrong_loss_weights_are_named(weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=rf"of the model, \['age'\], .*one of them above 0. Received: .*{weights}"):
        losses.compile_losses(["age"], weights)


def test_distribution_loss_by_hand() -> None:
    years = np.arange(117)
    bell = np.exp(-(((years - 30) / losses.LABEL_STD) ** 2) / 2)
    bell /= bell.sum()
    flat = np.full(117, 1 / 117)
    found = np.asarray(losses.distribution_loss(np.array([[30.0], [30.0]]), np.stack([bell, flat])))
    np.testing.assert_allclose(found, [0.0, np.log(117) + np.sum(bell * np.log(np.maximum(bell, 1e-30)))], atol=1e-4)


def test_age_with_distribution_loss_by_hand() -> None:
    flat = np.full((1, 117), 1 / 117)
    loss = losses.compile_losses(["age", "gender"], distribution=True)["loss"]
    found = loss["age"](np.array([[30.0]]), np.concatenate([[[50.0]], flat], axis=1))
    assert float(found[0]) == pytest.approx(1 + 0.5 * float(losses.distribution_loss(np.array([[30.0]]), flat)[0]))
    assert loss["gender"] is losses.gender_loss
    assert losses.compile_losses(["age"])["loss"] == {"age": losses.age_loss}
