import csv
import itertools
import json
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_tiny_trunk

import agegender as ag
from agegender.models import augmentation as augment
from agegender.models import losses
from agegender.models.batch_norm import add_batch_norm
from agegender.training.learner import compile_learner, make_learner

ROOT = pathlib.Path(__file__).parents[2]
SIZE = 24
SMALL_HEADS: dict[str, Any] = {"units": (8,), "age_dropout": (0.0,), "gender_dropout": (0.0,)}


@pytest.fixture(autouse=True)
def seeded() -> None:
    keras.utils.set_random_seed(1)


def faces(count: int, *, batch_size: int = 8, shuffle: bool = False) -> tf.data.Dataset:
    random = np.random.default_rng(0)
    gender = random.integers(0, 2, (count, 1)).astype("float32")
    age = random.uniform(1, 90, (count, 1)).astype("float32")
    # Brightness tells the age, the left half being the brighter one the gender.
    images = np.broadcast_to(2 * age[:, :, None, None], (count, SIZE, SIZE, 3)).copy()
    images[:, :, : SIZE // 2] += 60 * gender[:, :, None, None]
    targets = {"age": age, "gender": gender}
    return tf.data.Dataset.from_tensor_slices((np.clip(images, 0, 255).astype("uint8"), targets)).batch(batch_size)


def columns(path: pathlib.Path) -> list[dict]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_learns_and_leaves_its_records(tiny_trunk: keras.Model, tmp_path: pathlib.Path) -> None:
    workdir = tmp_path / "new" / "run"
    model = ag.build_model(tiny_trunk, age_dropout=(0,) * 3, gender_dropout=(0,) * 3)
    train, validation = faces(128), faces(32)
    optimizer = ag.make_optimizer(steps=16 * 6, learning_rate=3e-3)
    history = ag.train(model, train, validation, workdir=workdir, epochs=6, optimizer=optimizer, verbose=0).history
    assert history["val_loss"][-1] < 0.5 * history["loss"][0]
    assert history["val_age_mae"][-1] < 12 < history["age_mae"][0]

    rows = columns(workdir / "metrics.csv")
    assert [row["epoch"] for row in rows] == list("012345")
    assert [float(row["val_loss"]) for row in rows] == pytest.approx(history["val_loss"], rel=1e-5)
    assert (workdir / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((workdir / "tensorboard").rglob("events.out.tfevents.*"))
    record = json.loads((workdir / "run.json").read_text())
    assert record["versions"]["keras"] == keras.__version__ and record["parameters"] == model.count_params()
    assert record["command"] == sys.argv and record["dtype_policy"] == "float32" and record["devices"]
    assert len(record["seconds"]["epochs"]) == 6 and min(record["seconds"]["set_up"], *record["seconds"]["epochs"]) > 0
    assert record["started"] <= record["finished"] and not (workdir / "checkpoints").exists()

    images = next(iter(train))[0]
    last = keras.saving.load_model(workdir / "last.keras")
    np.testing.assert_array_equal(last(images)["age"], model(images)["age"])
    best = keras.saving.load_model(workdir / "best.keras")
    measured = ag.evaluate(best, validation).model["mae"]
    assert measured == pytest.approx(history["val_age_mae"][int(np.argmin(history["val_loss"]))], rel=1e-4)


def test_both_heads_and_the_trunk_train(tiny_trunk: keras.Model, tmp_path: pathlib.Path) -> None:
    model = ag.build_model(tiny_trunk)
    before = [np.array(w) for w in model.get_weights()]
    # Two steps: in the first, all but the last layers stand still, for those start at zero.
    ag.train(model, faces(16), workdir=tmp_path, epochs=1, verbose=0)
    assert all(not np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_fit_reports_the_joint_loss_of_losses_py(tiny_trunk: keras.Model, tmp_path: pathlib.Path) -> None:
    model = ag.build_model(tiny_trunk)
    still = keras.optimizers.SGD(0.0)
    validation = faces(8)
    loss_weights = {"age": 0.3, "gender": 2.0}
    history = ag.train(
        model, faces(8), validation, workdir=tmp_path, epochs=1, optimizer=still, verbose=0, loss_weights=loss_weights
    ).history
    images, targets = next(iter(validation))
    expected = float(losses.joint_loss(targets, model(images, training=False), loss_weights))
    assert history["val_loss"][0] == pytest.approx(expected, rel=1e-5)


def test_the_augmentation_works_in_training_and_is_not_saved(tiny_trunk: keras.Model, tmp_path: pathlib.Path) -> None:
    model = ag.build_model(tiny_trunk)
    augmentation = ag.Augmentation(seed=4)
    ag.train(model, faces(16), faces(8), workdir=tmp_path, epochs=2, augmentation=augmentation, verbose=0)
    assert augmentation.step == 4  # two epochs of two batches; validation draws nothing
    saved = keras.saving.load_model(tmp_path / "best.keras")
    assert not any(isinstance(layer, ag.Augmentation) for layer in saved.layers)


def test_a_stream_of_utkface_trains_one_pass_an_epoch(
    prepared: pathlib.Path, tiny_trunk: keras.Model, tmp_path: pathlib.Path
) -> None:
    train = ag.load_utkface("train", batch_size=16, training=True, image_size=SIZE, data_dir=prepared)
    validation = ag.load_utkface("validation", batch_size=16, image_size=SIZE, data_dir=prepared)
    augmentation = ag.Augmentation()
    model = ag.build_model(tiny_trunk)
    ag.train(model, train, validation, workdir=tmp_path, epochs=2, augmentation=augmentation, verbose=0)
    assert augmentation.step == 2 * train.steps_per_epoch


@pytest.mark.parametrize("head", ["age", "gender"])
def test_a_model_with_one_head_trains(tiny_trunk: keras.Model, tmp_path: pathlib.Path, head: str) -> None:
    only = faces(16).map(lambda images, targets: (images, {head: targets[head]}))
    model = ag.build_model(tiny_trunk, heads=[head])
    ag.train(model, only, only, workdir=tmp_path, epochs=1, verbose=0)
    assert (tmp_path / "curves.png").exists()
    assert {"age": "val_age_mae", "gender": "val_gender_accuracy"}[head] in columns(tmp_path / "metrics.csv")[0]


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(
    tiny_trunk: keras.Model, tmp_path: pathlib.Path
) -> None:
    def poison(index, batch):
        images, targets = batch
        age = tf.where(index == 5, float("nan"), targets["age"])
        return images, {**targets, "age": age}

    train = faces(24).repeat().enumerate().map(poison)
    with pytest.raises(FloatingPointError, match=r"nan at step 6 \(epoch 2, batch 3\)"):
        ag.train(ag.build_model(tiny_trunk), train, faces(8), workdir=tmp_path, epochs=3, steps_per_epoch=3, verbose=0)
    saved = keras.saving.load_model(tmp_path / "last.keras")
    assert all(np.all(np.isfinite(w)) for w in saved.get_weights())


def test_a_folder_that_holds_a_run_is_left_alone(tiny_trunk: keras.Model, tmp_path: pathlib.Path) -> None:
    model = ag.build_model(tiny_trunk)
    ag.train(model, faces(8), workdir=tmp_path, epochs=1, verbose=0)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    with pytest.raises(FileExistsError, match="contains a finished run"):
        ag.train(model, faces(8), workdir=tmp_path, epochs=1, verbose=0)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}


def test_the_record_is_written_before_the_first_step(tiny_trunk: keras.Model, tmp_path: pathlib.Path) -> None:
    class Stop(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ag.train(
            ag.build_model(tiny_trunk),
            faces(8),
            workdir=tmp_path,
            epochs=1,
            run_info={"config": {"epochs": 1}},
            callbacks=[Stop()],
            verbose=0,
        )
    assert json.loads((tmp_path / "run.json").read_text())["config"] == {"epochs": 1}


def test_the_learning_rate_rises_and_falls_to_zero() -> None:
    rate = ag.make_optimizer(steps=100, learning_rate=0.1, warmup=0.1)._learning_rate
    assert float(rate(0)) == 0 and float(rate(5)) == pytest.approx(0.05) and float(rate(10)) == pytest.approx(0.1)
    assert float(rate(55)) == pytest.approx(0.05) and float(rate(100)) == pytest.approx(0, abs=1e-8)


def test_without_warmup_the_learning_rate_starts_at_its_highest() -> None:
    assert float(ag.make_optimizer(steps=10, learning_rate=0.1, warmup=0)._learning_rate(0)) == pytest.approx(0.1)


def test_by_default_the_learning_rate_falls_to_zero_at_the_end_of_all_epochs(
    tiny_trunk: keras.Model, tmp_path: pathlib.Path
) -> None:
    rates = []

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
            rates.append(float(self.model.optimizer.learning_rate))

    ag.train(
        ag.build_model(tiny_trunk, **SMALL_HEADS), faces(16), workdir=tmp_path, epochs=2, callbacks=[Look()], verbose=0
    )
    assert rates == pytest.approx([3e-4 / 2, 0.0], abs=1e-9)


def test_the_default_optimizer_warms_up_for_a_twentieth_and_shortens_all_gradients_together() -> None:
    optimizer = ag.make_optimizer(steps=1000)
    assert [float(optimizer._learning_rate(step)) for step in (0, 25, 50)] == pytest.approx([0, 1.5e-4, 3e-4])
    assert (optimizer.weight_decay, optimizer.global_clipnorm, optimizer.clipnorm) == (1e-4, 1.0, None)
    assert ag.make_optimizer(steps=10, clipnorm=0.5).global_clipnorm == 0.5


def test_kernels_decay_and_biases_and_normalisations_do_not() -> None:
    layers = [keras.layers.Dense(3, bias_initializer="ones"), keras.layers.BatchNormalization(beta_initializer="ones")]
    model = keras.Sequential([keras.Input((4,)), *layers])
    optimizer = ag.make_optimizer(steps=10, learning_rate=0.1, warmup=0, weight_decay=0.5)
    optimizer.build(model.trainable_weights)
    kernel = np.array(layers[0].kernel)
    optimizer.apply([keras.ops.zeros_like(weight) for weight in model.trainable_weights])
    np.testing.assert_allclose(layers[0].kernel, kernel * (1 - 0.1 * 0.5), rtol=1e-5)
    for weight in model.trainable_weights[1:]:
        np.testing.assert_array_equal(weight, np.ones(3))


def test_the_best_epoch_is_that_of_the_validation_and_not_the_last(
    tiny_trunk: keras.Model, tmp_path: pathlib.Path
) -> None:
    old, young = (
        faces(16).map(lambda images, targets, age=age: (images, {**targets, "age": 0 * targets["age"] + age}))
        for age in (90, 1)
    )
    optimizer = ag.make_optimizer(steps=6, learning_rate=3e-3, warmup=0)
    options: dict[str, Any] = {"epochs": 3, "optimizer": optimizer, "loss_weights": {"gender": 0.0}, "verbose": 0}
    history = ag.train(ag.build_model(tiny_trunk, **SMALL_HEADS), old, young, workdir=tmp_path, **options).history
    assert history["val_loss"] == sorted(history["val_loss"]) and history["loss"][-1] < history["loss"][0]
    best = ag.evaluate(keras.saving.load_model(tmp_path / "best.keras"), young).model["mae"]
    assert best == pytest.approx(history["val_age_mae"][0], rel=1e-4) and best < history["val_age_mae"][-1] - 0.01


def test_who_reads_a_file_of_the_run_while_it_is_written_anew_has_the_old_one_whole(
    tiny_trunk: keras.Model, tmp_path: pathlib.Path
) -> None:
    opened = {}

    class Open(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
            if epoch == 0:
                for name in ("last.keras", "metrics.csv", "curves.png", "run.json"):
                    opened[name] = (tmp_path / name).open("rb"), (tmp_path / name).read_bytes()

    ag.train(
        ag.build_model(tiny_trunk, **SMALL_HEADS), faces(16), workdir=tmp_path, epochs=2, callbacks=[Open()], verbose=0
    )
    for name, (file, before) in opened.items():
        with file:
            assert file.read() == before != (tmp_path / name).read_bytes(), name


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epochs": 0}, "`epochs` must be 1 or more. Received: epochs=0"),
        ({"steps_per_epoch": 0}, "`steps_per_epoch` must be 1 or more"),
        ({"loss_weights": {"age": -1.0}}, "`loss_weights` must map heads"),
        ({"image_sizes": [(1, 12)]}, "`image_sizes` must be pairs of epochs, together less than the 1 of the run"),
        ({"image_sizes": [(1, 48)], "epochs": 2}, "pixels in 1..24. Received: image_sizes=[(1, 48)]"),
        ({"image_sizes": [(1, 12)], "epochs": 2, "cache_trunk": 1}, "`cache_trunk` needs one image size"),
    ],
)
def test_what_cannot_be_trained_is_named_and_leaves_no_folder(
    tiny_trunk: keras.Model, tmp_path: pathlib.Path, options: dict, words: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        ag.train(ag.build_model(tiny_trunk), faces(8), workdir=tmp_path / "run", **{"epochs": 1, **options})
    assert not (tmp_path / "run").exists()


def test_images_of_another_size_than_the_model_takes_are_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match=r"image_size=30\).*Received: 24 pixels"):
        ag.train(ag.build_model(make_tiny_trunk(30)), faces(8), workdir=tmp_path / "run", epochs=1)
    assert not (tmp_path / "run").exists()


def test_targets_that_the_model_has_no_head_for_are_named(tiny_trunk: keras.Model, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match=r"\['age'\].*`heads`.*Received targets: \['age', 'gender'\]"):
        ag.train(ag.build_model(tiny_trunk, heads=["age"]), faces(8), workdir=tmp_path / "run", epochs=1)
    assert not (tmp_path / "run").exists()


def test_an_endless_stream_without_a_length_asks_for_one(tiny_trunk: keras.Model, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="`steps_per_epoch`"):
        ag.train(ag.build_model(tiny_trunk), faces(8).repeat(), workdir=tmp_path, epochs=1)


@pytest.mark.parametrize(
    "options", [{"steps": 0}, {"learning_rate": 0.0}, {"warmup": 1.0}, {"learning_rate": float("nan")}]
)
def test_an_optimizer_out_of_range_is_refused(options: dict) -> None:
    with pytest.raises(ValueError, match="Received: steps="):
        ag.make_optimizer(**{"steps": 10, **options})


# ---- the options


def functional_trunk() -> keras.Model:
    """As `vggface_trunk` gives one: a `keras.Model` of its own layers."""
    tiny = make_tiny_trunk()
    return keras.Model(tiny.inputs[0], tiny.outputs[0], name="tiny")


def test_small_sizes_come_first_and_the_best_epoch_is_of_the_full_size(tmp_path: pathlib.Path) -> None:
    model, seen = ag.build_model(add_batch_norm(functional_trunk())), []

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
            reduced = [layer for layer in self.model.layers if layer.name == "resized"]
            files = tuple((tmp_path / name).exists() for name in ("best.keras", "last.keras"))
            seen.append((reduced[0].output.shape[1] if reduced else SIZE, files, np.array(model.weights[0])))

    history = ag.train(
        model,
        faces(16),
        faces(8),
        workdir=tmp_path,
        epochs=4,
        image_sizes=[(1, 12), (2, 16)],
        callbacks=[Look()],
        verbose=0,
    )
    assert [size for size, _, _ in seen] == [12, 16, 16, 24]
    assert [best for _, (best, _), _ in seen] == [False, False, False, True]
    assert len(history.history["val_loss"]) == 4 and history.epoch == [0, 1, 2, 3]
    assert len(columns(tmp_path / "metrics.csv")) == 4
    weights = [weight for *_, weight in seen]
    assert all(np.any(first != second) for first, second in itertools.pairwise(weights)), "all sizes teach one model"


def test_small_images_are_averages_of_the_augmented_ones() -> None:
    augmentation = ag.Augmentation(**augment.Settings(brightness=0.5)._asdict())
    learner = make_learner(ag.build_model(functional_trunk()), augmentation=augmentation, image_size=8)
    reduced = keras.Model(learner.input, learner.get_layer("resized").output)
    stripes = np.zeros((2, SIZE, SIZE, 3), "uint8")
    stripes[:, :, 1::3] = 240  # where one in three pixels would be looked at
    small = np.asarray(reduced(stripes))
    assert small.shape == (2, 8, 8, 3)
    np.testing.assert_allclose(small[:, 1:-1, 1:-1], 110, atol=30)
    augmentation.step = 0
    changed = np.asarray(reduced(stripes, training=True))
    factors = changed[:, 4, 4, 0] / small[:, 4, 4, 0]
    assert augmentation.step == 1 and np.all(np.abs(factors - 1) > 1e-3)


@pytest.mark.parametrize("age_head", ["regression", "distribution"])
def test_losses_and_metrics_honour_sample_weight(
    tiny_trunk: keras.Model, tmp_path: pathlib.Path, age_head: str
) -> None:
    model = ag.build_model(tiny_trunk, age_head=age_head, **SMALL_HEADS)
    images, targets = next(iter(faces(4)))
    weights = np.array([[2.0], [1.0], [0.0], [0.0]], "float32")
    weighted = tf.data.Dataset.from_tensors((images, targets, weights))
    options: dict[str, Any] = {"optimizer": keras.optimizers.SGD(0.0), "loss_weights": {"gender": 3.0}, "verbose": 0}
    history = ag.train(model, weighted, weighted, workdir=tmp_path, epochs=1, **options).history

    # An untrained model predicts 33 years and one half for every image.
    error = targets["age"].numpy()[:, 0] - 33.0
    age_loss = (error / 20) ** 2
    if age_head == "distribution":
        distribution = np.exp(-(((np.arange(117) - 33) / 20) ** 2) / 2)
        distribution /= distribution.sum()
        mean = np.sum(distribution * np.arange(117))
        error = targets["age"].numpy()[:, 0] - mean
        kl = losses.distribution_loss(targets["age"], np.broadcast_to(distribution, (4, 117)))
        age_loss = (error / 20) ** 2 + 0.5 * np.asarray(kl)
    gender_loss = (2 + 1) * np.log(2)
    expected = (2 * age_loss[0] + 1 * age_loss[1] + 3 * gender_loss) / 4  # Keras divides by the batch size
    assert history["val_loss"][0] == pytest.approx(expected, rel=1e-4)
    assert history["val_age_mae"][0] == pytest.approx((2 * abs(error[0]) + abs(error[1])) / 3, rel=1e-4)
    right = targets["gender"].numpy()[:, 0] == 0  # one half counts as male
    assert history["val_gender_accuracy"][0] == pytest.approx((2 * right[0] + right[1]) / 3)


# ---- the dtype


@pytest.fixture
def float16() -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy(before)


def test_float16_trains_with_a_scaled_loss(float16: None, tmp_path: pathlib.Path) -> None:
    model = ag.build_model(make_tiny_trunk(), age_dropout=(0,) * 3, gender_dropout=(0,) * 3)
    optimizer = ag.make_optimizer(steps=16 * 4, learning_rate=3e-3)
    learner = compile_learner(make_learner(model), optimizer)
    assert isinstance(learner.optimizer, keras.optimizers.LossScaleOptimizer)
    history = ag.train(model, faces(128), faces(32), workdir=tmp_path, epochs=4, optimizer=optimizer, verbose=0).history
    assert history["val_loss"][-1] < 0.7 * history["loss"][0]
    saved = keras.saving.load_model(tmp_path / "last.keras")
    images = next(iter(faces(8)))[0]
    assert saved(images)["age"].dtype == "float32"  # the heads
    np.testing.assert_array_equal(saved(images)["age"], model(images)["age"])


def test_the_gradients_of_float16_are_clipped_at_their_true_length(float16: None, tmp_path: pathlib.Path) -> None:
    model = ag.build_model(make_tiny_trunk())
    before = [np.array(weight) for weight in model.trainable_weights]
    plain = keras.optimizers.SGD(1.0, global_clipnorm=0.01)  # the gradients are longer, and 2**15 times when scaled
    ag.train(model, faces(8), workdir=tmp_path, epochs=1, optimizer=plain, verbose=0)
    moved = [np.sum((np.array(w) - b) ** 2) for w, b in zip(model.trainable_weights, before, strict=True)]
    assert np.sqrt(np.sum(moved)) == pytest.approx(0.01, rel=1e-3)


def test_float16_stops_at_a_loss_that_is_not_finite(float16: None, tmp_path: pathlib.Path) -> None:
    poisoned = faces(16).map(lambda images, targets: (images, {**targets, "age": targets["age"] * float("nan")}))
    with pytest.raises(FloatingPointError, match="nan at step 1 "):
        ag.train(ag.build_model(make_tiny_trunk()), poisoned, workdir=tmp_path, epochs=1, verbose=0)


# ---- what crosses to the device, and what is traced there


def test_images_reach_the_device_as_uint8(
    tiny_trunk: keras.Model, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached: dict[str, set] = {}

    def watch(name: str) -> None:
        step = getattr(keras.Model, name)

        def look(self, data):
            reached.setdefault(name, set()).add(data[0].dtype.name)
            return step(self, data)

        monkeypatch.setattr(keras.Model, name, look)

    for name in ("train_step", "test_step", "predict_step"):  # what Keras traces: its arguments come from the host
        watch(name)
    model = ag.build_model(tiny_trunk)
    ag.train(model, faces(8), faces(8), workdir=tmp_path, epochs=1, augmentation=ag.Augmentation(), verbose=0)
    assert reached == {"train_step": {"uint8"}, "test_step": {"uint8"}}
    ag.evaluate(model, faces(8))
    assert reached.pop("predict_step") == {"uint8"}
    ag.Predictor(ag.build_model(make_tiny_trunk()))(np.zeros((2, 30, 30, 3)), aligned=True)
    assert reached["predict_step"] == {"uint8"}


def test_chosen_steps_are_traced_for_tensorboard(tiny_trunk: keras.Model, tmp_path: pathlib.Path) -> None:
    ag.train(ag.build_model(tiny_trunk), faces(32), workdir=tmp_path, epochs=2, profile=(2, 3), verbose=0)
    [trace] = (tmp_path / "tensorboard").rglob("*.xplane.pb")
    assert b"Conv2DBackpropInput" in trace.read_bytes()


@pytest.mark.parametrize("profile", [(0, 1), (2, 1), (1, 5)])
def test_steps_that_cannot_be_traced_are_named(
    tiny_trunk: keras.Model, tmp_path: pathlib.Path, profile: tuple[int, int]
) -> None:
    with pytest.raises(ValueError, match=re.escape(f"in 1..4. Received: profile={profile}")):
        ag.train(ag.build_model(tiny_trunk), faces(32), workdir=tmp_path / "run", epochs=1, profile=profile)
    assert not (tmp_path / "run").exists()


ON_JAX = """
import sys, keras, numpy as np
import agegender as ag
reached = set()
step = keras.Model.train_step
keras.Model.train_step = lambda self, state, data: (reached.add(data[0].dtype.name), step(self, state, data))[1]
trunk = keras.Sequential([keras.Input((24, 24, 3)), keras.layers.Rescaling(1 / 255), keras.layers.GlobalMaxPooling2D()])
images, ages = np.zeros((4, 24, 24, 3), "uint8"), np.full((4, 1), 30, "float32")
class Batches(keras.utils.PyDataset):
    def __len__(self): return 2
    def __getitem__(self, index): return images, {"age": ages}
ag.train(ag.build_model(trunk, heads=["age"]), Batches(), workdir=sys.argv[1], epochs=1, profile=(2, 2), verbose=0)
from agegender.models.batch_norm import add_batch_norm
features = keras.layers.GlobalMaxPooling2D()(keras.layers.Conv2D(2, 3, activation="relu")(trunk.inputs[0]))
chain = add_batch_norm(keras.Model(trunk.inputs[0], features))
model = ag.build_model(chain, heads=["age"], age_head="distribution")
options = {"image_sizes": [(1, 12)], "optimizer": ag.make_optimizer(steps=4), "verbose": 0}
ag.train(model, Batches(), Batches(), workdir=sys.argv[1] + "/options", epochs=2, **options)
print(keras.backend.backend(), reached)
"""


def test_jax_too_gets_uint8_and_is_traced(tmp_path: pathlib.Path) -> None:
    environ = {**os.environ, "KERAS_BACKEND": "jax"}
    command = [sys.executable, "-c", ON_JAX, str(tmp_path)]
    done = subprocess.run(command, env=environ, cwd=pathlib.Path(__file__).parents[2], capture_output=True, text=True)
    assert done.stdout.split() == ["jax", "{'uint8'}"], done.stderr
    assert list((tmp_path / "tensorboard").rglob("*.xplane.pb"))
