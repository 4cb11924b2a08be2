"""`ag.train`: what a run learns, writes and refuses."""

import csv
import itertools
import json
import os
import pathlib
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import make_tiny_trunk
from tiny_utkface import prepare

import agegender as ag
from agegender.models import losses
from agegender.models.augmentation import Settings
from agegender.models.batch_norm import add_batch_norm
from agegender.models.contract import ContractError
from agegender.training import callbacks, renew
from agegender.training.learner import compile_learner, make_learner
from agegender.training.stages import list_stages

ROOT = pathlib.Path(__file__).parents[2]
SIZE = 24
SMALL_HEADS: dict[str, Any] = {"units": (8,), "age_dropout": (0.0,), "gender_dropout": (0.0,)}


@pytest.fixture(autouse=True)
def seed() -> None:
    keras.utils.set_random_seed(1)


def make_faces(count: int, *, batch_size: int = 8) -> tf.data.Dataset:
    """Images whose brightness is the age, and whose left half is brighter for women."""
    random = np.random.default_rng(0)
    gender = random.integers(0, 2, (count, 1)).astype("float32")
    age = random.uniform(1, 90, (count, 1)).astype("float32")
    images = np.broadcast_to(2 * age[:, :, None, None], (count, SIZE, SIZE, 3)).copy()
    images[:, :, : SIZE // 2] += 60 * gender[:, :, None, None]
    targets = {"age": age, "gender": gender}
    return tf.data.Dataset.from_tensor_slices((np.clip(images, 0, 255).astype("uint8"), targets)).batch(batch_size)


def make_model(trunk: keras.Model | None = None, **options: Any) -> keras.Model:
    return ag.build_model(trunk or make_tiny_trunk(), **{**SMALL_HEADS, **options})


def make_functional_trunk() -> keras.Model:
    tiny = make_tiny_trunk()
    return keras.Model(tiny.inputs[0], tiny.outputs[0], name="tiny")


def one_still_epoch() -> dict[str, Any]:
    """Options of an epoch that changes no weight."""
    return {"epochs": 1, "optimizer": keras.optimizers.SGD(0.0), "verbose": 0}


def read_metrics(workdir: pathlib.Path) -> list[dict[str, str]]:
    with open(workdir / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


# ---- embeddings


def test_embeddings_teach_the_trunk(tmp_path: pathlib.Path) -> None:
    """The trunk alone decides the embedding: the weights of a still head stay, so those of the trunk must follow."""
    faces = make_faces(32)
    brightness = faces.map(lambda images, targets: (images, {**targets, "embedding": targets["age"] / 50 - 1}))
    options: dict[str, Any] = {"epochs": 3, "verbose": 0, "optimizer": keras.optimizers.Adam(1e-2)}
    model = make_model()
    history = ag.train(
        model, brightness, faces, workdir=tmp_path / "1", loss_weights={"embedding": 3.0}, **options
    ).history
    assert history["embedding_loss"][-1] < 0.5 * history["embedding_loss"][0]
    assert history["val_embedding_loss"] == [0, 0, 0]  # the validation data have no embeddings
    for epoch in range(3):
        parts = [history[f"{name}_loss"][epoch] for name in ("age", "gender", "embedding")]
        assert history["loss"][epoch] == pytest.approx(parts[0] + parts[1] + 3 * parts[2], rel=1e-5)
    saved = keras.saving.load_model(tmp_path / "1/best.keras")
    assert set(saved.output) == {"age", "gender"} and saved.count_params() == model.count_params()


def test_embeddings_change_the_weights_of_the_trunk(tmp_path: pathlib.Path) -> None:
    faces, trained = make_faces(16), []
    for number, weight in enumerate((0.0, 2.0)):
        keras.utils.set_random_seed(1)
        model = make_model()
        data = faces.map(lambda images, targets: (images, {**targets, "embedding": targets["gender"]}))
        ag.train(model, data, workdir=tmp_path / str(number), epochs=1, verbose=0, loss_weights={"embedding": weight})
        trained.append(np.concatenate([w.ravel() for w in model.layers[1].get_weights()]))
    assert (trained[0] != trained[1]).any()


def test_embeddings_need_a_trunk_that_learns(tmp_path: pathlib.Path) -> None:
    data = make_faces(16).map(lambda images, targets: (images, {**targets, "embedding": targets["gender"]}))
    with pytest.raises(ValueError, match=r"`cache_trunk` needs a frozen trunk.*embeddings of 1 numbers"):
        ag.train(make_model(), data, workdir=tmp_path / "1", epochs=2, cache_trunk=1)


def test_embeddings_go_with_weights_of_each_head(tmp_path: pathlib.Path) -> None:
    def add(images: tf.Tensor, targets: dict[str, tf.Tensor]) -> tuple[Any, ...]:
        weights = {"age": tf.zeros_like(targets["age"]), "gender": tf.ones_like(targets["gender"])}
        return images, {**targets, "embedding": targets["gender"]}, weights

    history = ag.train(make_model(), make_faces(16).map(add), workdir=tmp_path / "1", epochs=1, verbose=0).history
    assert history["age_loss"] == [0] and history["embedding_loss"][0] > 0


def test_embeddings_of_another_shape_are_refused(tmp_path: pathlib.Path) -> None:
    data = make_faces(16).map(lambda images, targets: (images, {**targets, "embedding": targets["gender"][:, 0]}))
    with pytest.raises(ContractError, match=r"floats of the shape \[batch, width\]. Received: TensorSpec"):
        ag.train(make_model(), data, workdir=tmp_path / "1", epochs=1)


# ---- a whole run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of four epochs and its callbacks' records."""
    keras.utils.set_random_seed(1)
    workdir = tmp_path_factory.mktemp("runs") / "new" / "run"
    opened: dict[str, Any] = {}
    seen_dtypes = set()

    class OpenFiles(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
            if epoch == 1:
                for name in ("last.keras", "metrics.csv", "curves.png", "run.json"):
                    opened[name] = (workdir / name).open("rb"), (workdir / name).read_bytes()

    def look_at_dtypes(self: keras.Model, data: Any) -> Any:
        seen_dtypes.add(data[0].dtype.name)
        return train_step(self, data)

    model, augmentation = make_model(), ag.Augmentation(seed=4, brightness=0, contrast=0, erasing=0)
    before = [np.array(weight) for weight in model.get_weights()]
    with pytest.MonkeyPatch.context() as patch:
        train_step = keras.Model.train_step
        patch.setattr(keras.Model, "train_step", look_at_dtypes)
        history = ag.train(
            model,
            make_faces(128),
            make_faces(32),
            workdir=workdir,
            epochs=4,
            augmentation=augmentation,
            optimizer=ag.make_optimizer(steps=16 * 4, learning_rate=1e-2),
            callbacks=[OpenFiles()],
            verbose=0,
        )
    return types.SimpleNamespace(
        workdir=workdir,
        model=model,
        before=before,
        history=history.history,
        augmentation=augmentation,
        opened=opened,
        dtypes=seen_dtypes,
    )


def test_run_learns(run: Any) -> None:
    assert run.history["val_loss"][-1] < 0.6 * run.history["loss"][0]
    assert run.history["val_age_mae"][-1] < 14 < run.history["age_mae"][0]
    assert all(not np.array_equal(a, b) for a, b in zip(run.before, run.model.get_weights(), strict=True))


def test_run_writes_metrics_and_curves(run: Any) -> None:
    rows = read_metrics(run.workdir)
    assert [row["epoch"] for row in rows] == list("0123")
    for name, values in run.history.items():
        assert [float(row[name]) for row in rows] == pytest.approx(values, rel=1e-5)
    assert (run.workdir / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((run.workdir / "tensorboard").rglob("events.out.tfevents.*"))


def test_run_json_describes_the_run(run: Any) -> None:
    record = json.loads((run.workdir / "run.json").read_text())
    assert record["versions"]["keras"] == keras.__version__ and record["parameters"] == run.model.count_params()
    assert record["command"] == sys.argv and record["dtype_policy"] == "float32" and record["devices"]
    assert len(record["seconds"]["epochs"]) == 4 and min(record["seconds"]["set_up"], *record["seconds"]["epochs"]) > 0
    assert record["started"] <= record["finished"] and not (run.workdir / "checkpoints").exists()


def test_last_and_best_model(run: Any) -> None:
    images = next(iter(make_faces(8)))[0]
    last, best = (keras.saving.load_model(run.workdir / name) for name in ("last.keras", "best.keras"))
    np.testing.assert_array_equal(last(images)["age"], run.model(images)["age"])
    validation = list(make_faces(32))
    error = [np.abs(best.predict_on_batch(images)["age"] - targets["age"]) for images, targets in validation]
    expected = run.history["val_age_mae"][int(np.argmin(run.history["val_loss"]))]
    assert np.mean(error) == pytest.approx(expected, rel=1e-4)


def test_augmentation_runs_in_training_only_and_is_not_saved(run: Any) -> None:
    assert run.augmentation.step == 4 * 16  # validation draws nothing
    saved = keras.saving.load_model(run.workdir / "best.keras")
    assert not any(isinstance(layer, ag.Augmentation) for layer in saved.layers)


def test_files_are_replaced_atomically(run: Any) -> None:
    for name, (file, before) in run.opened.items():
        with file:
            assert file.read() == before != (run.workdir / name).read_bytes(), name


def test_images_reach_the_device_as_uint8(run: Any) -> None:
    assert run.dtypes == {"uint8"}


def test_finished_workdir_is_refused_and_unchanged(run: Any) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.workdir.iterdir()}
    with pytest.raises(FileExistsError, match="contains a finished run"):
        ag.train(run.model, make_faces(8), workdir=run.workdir, epochs=1, verbose=0)
    assert before == {path: path.stat().st_mtime_ns for path in run.workdir.iterdir()}


def test_utkface_trains_one_pass_per_epoch_by_default(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = prepare(tmp_path / "data", {"train": [{"age": age, "gender": age % 2} for age in range(20)]})
    train = ag.load_utkface("train", batch_size=8, training=True, image_size=SIZE, data_dir=data)
    augmentation = ag.Augmentation()
    ag.train(make_model(), train, workdir=tmp_path / "run", epochs=2, augmentation=augmentation)
    assert augmentation.step == 2 * train.steps_per_epoch == 2 * 2
    printed = capsys.readouterr().out  # a line for each epoch, no progress bar
    assert printed.count("\n2/2 - ") == 2 and "\b" not in printed


def test_one_head_trains_with_the_default_schedule(tmp_path: pathlib.Path) -> None:
    rates = []

    class RecordRate(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
            rates.append(float(self.model.optimizer.learning_rate))

    data = make_faces(16).map(lambda images, targets: (images, targets["gender"]))
    ag.train(make_model(heads=["gender"]), data, data, workdir=tmp_path, epochs=2, callbacks=[RecordRate()], verbose=0)
    assert rates == pytest.approx([3e-4 / 2, 0.0], abs=1e-9)
    assert (tmp_path / "curves.png").exists() and "val_gender_accuracy" in read_metrics(tmp_path)[0]


# ---- losses and metrics


def test_losses_are_weighted(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, weights = make_model(), {"age": 0.3, "gender": 2.0}
    data = make_faces(8).map(lambda images, targets: (images, (targets["age"], targets["gender"])))  # in head order
    history = ag.train(model, data, data, workdir=tmp_path, loss_weights=weights, **one_still_epoch()).history
    images, targets = next(iter(make_faces(8)))
    expected = float(losses.joint_loss(targets, model(images, training=False), weights))
    assert history["val_loss"][0] == pytest.approx(expected, rel=1e-5) and capsys.readouterr().out == ""


@pytest.mark.parametrize("age_head", ["regression", "distribution"])
def test_losses_and_metrics_honour_sample_weight(tmp_path: pathlib.Path, age_head: str) -> None:
    images, targets = next(iter(make_faces(4)))
    weights = np.array([[2.0], [1.0], [0.0], [0.0]], "float32")
    data = tf.data.Dataset.from_tensors((images, targets, weights))
    options = {"workdir": tmp_path, "loss_weights": {"gender": 3.0}, **one_still_epoch()}
    history = ag.train(make_model(age_head=age_head), data, data, **options).history

    # An untrained model predicts one half, and 33 years or a normal distribution around that, cut off at 0 and 116.
    ages, kl = targets["age"].numpy()[:, 0], np.zeros(4)
    prediction = 33.0
    if age_head == "distribution":
        distribution = np.exp(-(((np.arange(117) - 33) / 20) ** 2) / 2)
        distribution /= distribution.sum()
        prediction = np.sum(distribution * np.arange(117))
        labels = np.exp(-(((np.arange(117) - ages[:, None]) / losses.LABEL_STD) ** 2) / 2)
        labels /= labels.sum(axis=1, keepdims=True)
        kl = np.sum(labels * np.log(np.maximum(labels, 1e-30) / distribution), axis=1)
    age_loss = ((ages - prediction) / 20) ** 2 + 0.5 * kl
    expected = (2 * age_loss[0] + age_loss[1] + 3 * (2 + 1) * np.log(2)) / 4  # Keras divides by the batch size
    assert history["val_loss"][0] == pytest.approx(expected, rel=1e-4)
    error = np.abs(ages - prediction)
    assert history["val_age_mae"][0] == pytest.approx((2 * error[0] + error[1]) / 3, rel=1e-4)
    right = targets["gender"].numpy()[:, 0] == 0  # one half counts as male
    assert history["val_gender_accuracy"][0] == pytest.approx((2 * right[0] + right[1]) / 3)


# ---- data that break the contract


def replace_target(data: tf.data.Dataset, batch: int, head: str, value: float) -> tf.data.Dataset:
    def replace(index: Any, pair: Any) -> Any:
        images, targets = pair
        return images, {**targets, head: tf.where(index == batch, value, targets[head])}

    return data.enumerate().map(replace)


def test_bad_batch_is_named_and_the_run_keeps_its_record(tmp_path: pathlib.Path) -> None:
    data = replace_target(make_faces(24).repeat(), 4, "age", float("nan"))
    message = r"^The batch of step 5 \(epoch 2, batch 2\) breaks .* Received: age=nan in row 0"
    options: dict[str, Any] = {"workdir": tmp_path, "epochs": 3, "steps_per_epoch": 3, "verbose": 0}
    with pytest.raises(ContractError, match=message):
        ag.train(make_model(), data, run_info={"config": {"epochs": 3}}, **options)
    saved = keras.saving.load_model(tmp_path / "last.keras")
    assert all(np.all(np.isfinite(weight)) for weight in saved.get_weights())
    assert json.loads((tmp_path / "run.json").read_text())["config"] == {"epochs": 3}


@pytest.mark.parametrize("bad", ["age", "gender", "sample_weight"])
def test_bad_batch_leaves_the_weights_finite(tmp_path: pathlib.Path, bad: str) -> None:
    images, targets = next(iter(make_faces(8)))
    values = {**targets, "sample_weight": tf.ones([8, 1])}
    values[bad] = tf.where(tf.range(8)[:, None] == 3, float("nan"), values[bad])
    weights = values.pop("sample_weight")[:, 0]
    data = tf.data.Dataset.from_tensor_slices((images, values, weights)).batch(8)
    model = make_model()
    with pytest.raises(ContractError, match="nan"):
        ag.train(model, data, workdir=tmp_path, epochs=1, verbose=0)
    assert all(np.all(np.isfinite(weight)) for weight in model.get_weights())


def test_bad_validation_batch_is_named(tmp_path: pathlib.Path) -> None:
    validation = replace_target(make_faces(16), 1, "gender", 2.0)
    with pytest.raises(ContractError, match=r"^Batch 2 of `validation` breaks .* Received: gender=2 in row 0"):
        ag.train(make_model(), make_faces(8), validation, workdir=tmp_path, epochs=1, verbose=0)


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        (None, r"The loss is (nan|inf) at step 2 \(epoch 1, batch 2\)"),
        (make_faces(8), r"The validation loss is (nan|inf) after epoch 1\."),
    ],
)
def test_loss_that_is_not_finite_stops_the_run(tmp_path: pathlib.Path, validation: Any, message: str) -> None:
    data = make_faces(8 if validation else 16)
    with pytest.raises(FloatingPointError, match=message):
        ag.train(make_model(), data, validation, workdir=tmp_path, epochs=2, optimizer=keras.optimizers.SGD(1e38))


class Batches(keras.utils.PyDataset):
    def __init__(self, batches: list) -> None:
        super().__init__()
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> Any:
        return self._batches[index]


FACES = [(images.numpy(), {head: values.numpy() for head, values in y.items()}) for images, y in make_faces(16)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (make_faces(8).map(lambda x, y: (x / 255, y)), r"they look divided by 255.*dtype=float32, values in 0"),
        (Batches([(x / 255, y) for x, y in FACES]), "they look divided by 255"),
        (((x, {**y, "age": y["age"] + 2000}) for x, y in FACES), r"ages must be finite and in 0\.\.116 years"),
        (Batches([(x, {**y, "gender": y["gender"] + 1}) for x, y in FACES]), "genders must be 0 .male. or 1"),
        (make_faces(8).map(lambda x, y: (x[:, :20, :20], y)), "must have 24 pixels a side.* Received: 20 pixels"),
        (make_faces(8).map(lambda x, y: (x, {"age": y["age"]})), r"must have the keys \['age', 'gender'\]"),
        (Batches([]), "must have a batch or more"),
        (make_faces(8).take(0), "must have a batch or more"),
        (make_faces(8).map(lambda x, y: {"image": x, **y}), "must be .images, targets. or .* Received: dict"),
    ],
)
def test_first_batch_is_checked_before_anything_is_written(tmp_path: pathlib.Path, data: Any, message: str) -> None:
    with pytest.raises(ContractError, match=f"`data` (breaks the data contract: )?.*{message}"):
        ag.train(make_model(), data, workdir=tmp_path / "run", epochs=1, steps_per_epoch=1)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"workdir": ""}, "`workdir` must name a folder"),
        ({"model": None}, "must be one from `build_model`"),
        ({"model": "runs/1"}, "must be one from `build_model`"),
    ],
)
def test_wrong_model_or_workdir_is_refused_before_anything_is_written(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"model": make_model(), "data": Batches(FACES), "workdir": "run", "epochs": 1, "verbose": 0}
    with pytest.raises(ValueError, match=message):
        ag.train(**{**options, **arguments})
    assert list(tmp_path.iterdir()) == []


def test_optimizer_may_be_a_name(eager: None, tmp_path: pathlib.Path) -> None:
    model = make_model()
    start, trained = model.get_weights(), []
    for number, optimizer in enumerate(("sgd", keras.optimizers.SGD())):
        model.set_weights(start)
        options = {"workdir": tmp_path / str(number), "epochs": 1, "steps_per_epoch": 1, "verbose": 0}
        ag.train(model, Batches(FACES), optimizer=optimizer, **options)
        trained.append(model.get_weights())
    assert all(map(np.array_equal, *trained))
    assert not all(map(np.array_equal, trained[0], start))


def test_model_of_zeros_is_refused_before_anything_is_written(tmp_path: pathlib.Path) -> None:
    model = make_model()
    for weight in model.weights:
        weight.assign(keras.ops.zeros_like(weight))
    with pytest.raises(ValueError, match="weights other than zero"):
        ag.train(model, Batches(FACES), workdir=tmp_path / "run", epochs=1, steps_per_epoch=1)
    assert not (tmp_path / "run").exists()


def change_image(batch: Any) -> Any:
    return batch[0] / np.float32(255), batch[1]


def drop_gender(batch: Any) -> Any:
    return batch[0], {"age": batch[1]["age"]}


def add_century(batch: Any) -> Any:
    return batch[0], {**batch[1], "age": batch[1]["age"] + 100}


def fail(batch: Any) -> Any:
    raise ZeroDivisionError("in the user's code")


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (change_image, ContractError, "Batch 6 of `data` breaks .*divided by 255"),
        (drop_gender, ContractError, r"Batch 6 of `data` breaks .*must have the keys \['age', 'gender'\]"),
        (add_century, ContractError, "Batch 6 of `data` breaks .*ages must be finite and in"),
        (fail, ZeroDivisionError, "in the user's code"),
    ],
)
@pytest.mark.parametrize("kind_of_data", ["generator", "PyDataset"])
def test_later_batches_are_checked(
    eager: None, tmp_path: pathlib.Path, kind_of_data: str, change: Any, kind: type[Exception], message: str
) -> None:
    class Late(Batches):
        def __getitem__(self, index: int) -> Any:
            return change(FACES[0]) if index == 5 else FACES[0]

    late = Late([FACES[0]] * 8)
    data = late if kind_of_data == "PyDataset" else (late[index] for index in range(8))
    with pytest.raises(kind, match=message) as error:
        ag.train(make_model(), data, workdir=tmp_path, steps_per_epoch=8, **one_still_epoch())
    assert "The last checkpoint" in error.value.__notes__[0]


def test_generator_must_have_a_batch_for_each_step(eager: None, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ContractError, match=r"`data` must have 6 batches, .* a generator that ended after 4"):
        ag.train(make_model(), iter(FACES * 2), workdir=tmp_path, epochs=2, steps_per_epoch=3, verbose=0)


def test_lists_of_targets_are_taken(eager: None, tmp_path: pathlib.Path) -> None:
    data = Batches([(images, [y["age"], y["gender"]], None) for images, y in FACES])
    history = ag.train(make_model(), data, data, workdir=tmp_path, **one_still_epoch()).history
    assert history["val_loss"] == pytest.approx(history["loss"], rel=1e-5)


@pytest.mark.parametrize("steps_per_epoch", [2, 5])
def test_every_epoch_of_a_py_dataset_has_all_steps(eager: None, tmp_path: pathlib.Path, steps_per_epoch: int) -> None:
    steps = []

    class CountSteps(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
            steps.append(batch)

    options: dict[str, Any] = {"callbacks": [CountSteps()], "epochs": 2, "verbose": 0}
    ag.train(make_model(), Batches([FACES[0]] * 3), workdir=tmp_path, steps_per_epoch=steps_per_epoch, **options)
    assert steps == [*range(steps_per_epoch)] * 2


def generate_faces() -> Iterator[Any]:
    yield from FACES


@pytest.mark.parametrize(
    ("data", "validation", "message"),
    [
        (FACES, None, "`data` must be a `tf.data.Dataset`, .* Received: data of type list"),
        (FACES[0], None, "Received: data of type tuple"),
        (None, None, "Received: data of type NoneType"),
        (make_faces(8), FACES[0], "`validation` must be a `tf.data.Dataset`, .* Received: validation of type tuple"),
        (generate_faces(), None, "`steps_per_epoch` must be given for data of unknown length. Received: a generator"),
        (make_faces(8), make_faces(8).repeat(), "`validation` must end and start again in each epoch"),
        (make_faces(8), generate_faces(), "`validation` must end .* Received: validation of type generator"),
        (make_faces(8), make_faces(8).take(0), "`validation` must have a batch or more"),
    ],
)
def test_wrong_kinds_of_data_are_refused(tmp_path: pathlib.Path, data: Any, validation: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ag.train(make_model(), data, validation, workdir=tmp_path / "run", epochs=1)
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize("name", ["data", "validation"])
def test_data_without_a_batch_are_named_at_the_end_of_an_epoch(eager: None, tmp_path: pathlib.Path, name: str) -> None:
    data = {"data": make_faces(8), "validation": make_faces(8)}
    data[name] = data[name].filter(lambda images, _: tf.shape(images)[0] < 0)
    with pytest.raises(ContractError, match=f"`{name}` must have a batch or more in each epoch"):
        ag.train(make_model(), **data, workdir=tmp_path, epochs=1, steps_per_epoch=1, verbose=0)


def test_generator_trains_from_its_first_batch(tmp_path: pathlib.Path) -> None:
    seen = []

    def generate() -> Iterator[Any]:
        for images, targets in FACES * 2:
            seen.append(len(images))
            yield images, targets

    history = ag.train(make_model(), generate(), workdir=tmp_path, steps_per_epoch=2, **one_still_epoch()).history
    # The optimizer changes nothing, so the loss is that of the first two batches.
    expected = np.mean([float(losses.joint_loss(y, make_model()(x))) for x, y in FACES])
    assert history["loss"][0] == pytest.approx(expected, rel=1e-5) and len(seen) >= 2


# ---- arguments out of range


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "`epochs` must be a whole number, 1 or more. Received: epochs=0"),
        ({"epochs": 1.5}, "`epochs` must be a whole number, 1 or more. Received: epochs=1.5"),
        ({"steps_per_epoch": 0}, "`steps_per_epoch` must be a whole number, 1 or more"),
        ({"steps_per_epoch": 40 / 16}, "1 or more. Received: steps_per_epoch=2.5"),
        ({"optimizer": "nosuch"}, "nosuch"),
        ({"loss_weights": {"age": -1.0}}, "`loss_weights` must map heads"),
        ({"image_sizes": [(1, 12)]}, "`image_sizes` must be pairs of epochs, together less than the 1 of the run"),
        (
            {"image_sizes": [(1, 48)], "epochs": 2},
            "pixels in 1..24, such as [(8, 12)]. Received: image_sizes=[(1, 48)]",
        ),
        ({"image_sizes": [(1, 4)], "epochs": 2}, "`image_sizes` must be large enough for the trunk"),
        ({"image_sizes": [(1, 12)], "epochs": 2, "cache_trunk": 1}, "`cache_trunk` needs one image size"),
        ({"callbacks": [keras.callbacks.ReduceLROnPlateau()]}, "ReduceLROnPlateau sets the learning rate"),
        ({"callbacks": [keras.callbacks.LearningRateScheduler(float)]}, "LearningRateScheduler sets the learning rate"),
        ({"optimizer": keras.optimizers.SGD(0.1, use_ema=True)}, "must not average the weights"),
        ({"verbose": "loud"}, "`verbose` must be 'auto', 0, 1 or 2. Received: verbose='loud'"),
        ({"augmentation": 0.1}, "`augmentation` must be a Keras layer or None. Received: augmentation=0.1"),
        ({"checkpoints": 3}, "`checkpoints` must be a `CheckpointPolicy` or None. Received: checkpoints=3"),
        ({"run_info": {"config": 3}}, '`run_info` must be a mapping, and its "config", if there is one, too. Received'),
        ({"run_info": 3}, "`run_info` must be a mapping"),
        ({"callbacks": 5}, "`callbacks` must be a list of Keras callbacks. Received: callbacks=5"),
        ({"callbacks": [print]}, "`callbacks` must be a list of Keras callbacks"),
        ({"loss_weights": [1, 1]}, "`loss_weights` must map heads of the model, ['age', 'gender'], to finite numbers"),
        ({"loss_weights": {"age": "1"}}, "one of them above 0. Received: loss_weights={'age': '1'}"),
        ({"image_sizes": (10, 48)}, "such as [(8, 12)]. Received: image_sizes=(10, 48)"),
        ({"image_sizes": [(1, "a")]}, "such as [(8, 12)]. Received: image_sizes=[(1, 'a')]"),
        ({"data": make_faces}, "`data` must be a `tf.data.Dataset`, a `keras.utils.PyDataset` or a generator"),
        ({"data": 5}, "Received: data of type int"),
    ],
)
def test_invalid_arguments_are_named_before_writing(tmp_path: pathlib.Path, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        ag.train(make_model(), **{"data": make_faces(8), "workdir": tmp_path / "run", "epochs": 1, **options})
    assert not (tmp_path / "run").exists()


def test_several_devices_need_divisible_batches_and_no_cache(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_module = sys.modules["agegender.training.train"]
    monkeypatch.setattr(train_module, "device_count", lambda: 6)
    monkeypatch.setattr(train_module, "process_count", lambda: 2)  # each has the rows of its three devices
    train_module._check_batch_size(make_faces(8).map(lambda x, y: (tf.ensure_shape(x[:6], (6, SIZE, SIZE, 3)), y)))
    eight = make_faces(8).map(lambda x, y: (tf.ensure_shape(x, (8, SIZE, SIZE, 3)), y))
    with pytest.raises(ValueError, match=r"divisible by the number of devices, 6\. Received: a batch size of 16"):
        train_module._check_batch_size(eight)
    with pytest.raises(ValueError, match=r"works on one device\. Received: cache_trunk=1, 6 devices"):
        ag.train(make_model(), eight, workdir=tmp_path / "run", epochs=2, cache_trunk=1)
    assert not (tmp_path / "run").exists()


def test_infinite_dataset_needs_steps_per_epoch(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="`steps_per_epoch`"):
        ag.train(make_model(), make_faces(8).repeat(), workdir=tmp_path, epochs=1)


# ---- the optimizer


def test_learning_rate_warms_up_and_decays_to_zero() -> None:
    rate = ag.make_optimizer(steps=100, learning_rate=0.1, warmup=0.1).get_config()["learning_rate"]
    rate = keras.optimizers.schedules.deserialize(rate)
    assert float(rate(0)) == 0 and float(rate(5)) == pytest.approx(0.05) and float(rate(10)) == pytest.approx(0.1)
    assert float(rate(55)) == pytest.approx(0.05) and float(rate(100)) == pytest.approx(0, abs=1e-8)
    without = ag.make_optimizer(steps=10, learning_rate=0.1, warmup=0)
    assert float(without.learning_rate) == pytest.approx(0.1)


def test_default_optimizer_warms_up_and_clips() -> None:
    optimizer = ag.make_optimizer(steps=1000)
    for step, expected in ((0, 0), (25, 1.5e-4), (50, 3e-4)):
        optimizer.iterations.assign(step)
        assert float(optimizer.learning_rate) == pytest.approx(expected)
    assert (optimizer.weight_decay, optimizer.global_clipnorm, optimizer.clipnorm) == (1e-4, 1.0, None)
    assert [ag.make_optimizer(steps=10, clipnorm=norm).global_clipnorm for norm in (0.5, 0)] == [0.5, 0]


def test_only_kernels_decay() -> None:
    layers = [keras.layers.Dense(3, bias_initializer="ones"), keras.layers.BatchNormalization(beta_initializer="ones")]
    model = keras.Sequential([keras.Input((4,)), *layers])
    optimizer = ag.make_optimizer(steps=10, learning_rate=0.1, warmup=0, weight_decay=0.5)
    optimizer.build(model.trainable_weights)
    kernel = np.array(layers[0].kernel)
    optimizer.apply([keras.ops.zeros_like(weight) for weight in model.trainable_weights])
    np.testing.assert_allclose(layers[0].kernel, kernel * (1 - 0.1 * 0.5), rtol=1e-5)
    for weight in model.trainable_weights[1:]:
        np.testing.assert_array_equal(weight, np.ones(3))


@pytest.mark.parametrize(
    "options",
    [
        *({"learning_rate": value} for value in (0.0, -1.0, np.nan, np.inf)),
        *({"weight_decay": value} for value in (-1e-9, np.inf)),
        *({"clipnorm": value} for value in (-1.0, np.inf)),
        *({"warmup": value} for value in (-0.1, 1.0)),
        {"steps": 0},
    ],
)
def test_optimizer_arguments_out_of_range(options: dict) -> None:
    with pytest.raises(ValueError, match=r"Received: (steps|weight_decay)="):
        ag.make_optimizer(**{"steps": 10, **options})


# ---- image sizes and batch normalisation


def test_small_image_sizes_first_and_best_epoch_at_full_size(tmp_path: pathlib.Path) -> None:
    model, seen = make_model(make_functional_trunk()), []

    class Record(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
            resized = [layer for layer in self.model.layers if layer.name == "resized"]
            files = tuple((tmp_path / name).exists() for name in ("best.keras", "last.keras"))
            seen.append((resized[0].output.shape[1] if resized else SIZE, files, np.array(model.weights[0])))

    options: dict[str, Any] = {"epochs": 2, "image_sizes": [(1, 12)], "callbacks": [Record()], "verbose": 0}
    history = ag.train(model, make_faces(16), make_faces(8), workdir=tmp_path, **options)
    assert [size for size, _, _ in seen] == [12, 24]
    assert [best for _, (best, _), _ in seen] == [False, True]
    assert len(history.history["val_loss"]) == len(read_metrics(tmp_path)) == 2 and history.epoch == [0, 1]
    assert np.any(seen[0][2] != seen[1][2]), "both stages train the same weights"


def test_stages_follow_each_other() -> None:
    assert list_stages([(2, 12), (3, 16)], 6, 24) == [(0, 2, 12), (2, 5, 16), (5, 6, 24)]
    assert list_stages([(1, 24)], 2, 24) == [(0, 1, 24), (1, 2, 24)] and list_stages([], 6, 24) == [(0, 6, 24)]


def test_early_stop_ends_its_stage(eager: None, tmp_path: pathlib.Path) -> None:
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
            self.model.stop_training = True

    options: dict[str, Any] = {"epochs": 6, "image_sizes": [(3, 12)], "callbacks": [Stop()], "verbose": 0}
    history = ag.train(make_model(make_functional_trunk()), make_faces(8), workdir=tmp_path, **options)
    assert history.epoch == [0, 3] and "finished" in json.loads((tmp_path / "run.json").read_text())


def test_small_images_are_averages_of_the_augmented_ones() -> None:
    augmentation = ag.Augmentation(**Settings(brightness=0.5)._asdict())
    learner = make_learner(make_model(make_functional_trunk()), augmentation=augmentation, image_size=8)
    resized = keras.Model(learner.input, learner.get_layer("resized").output)
    stripes = np.zeros((2, SIZE, SIZE, 3), "uint8")
    stripes[:, :, 1::3] = 240  # sampling one pixel in three would see all of it or nothing
    small = np.asarray(resized(stripes))
    assert small.shape == (2, 8, 8, 3)
    np.testing.assert_allclose(small[:, 1:-1, 1:-1], 110, atol=30)
    augmentation.step = 0
    factors = np.asarray(resized(stripes, training=True))[:, 4, 4, 0] / small[:, 4, 4, 0]
    assert augmentation.step == 1 and np.all(np.abs(factors - 1) > 1e-3)


@pytest.mark.parametrize("generated", [False, True])
def test_batch_norm_statistics_are_renewed_without_augmentation(tmp_path: pathlib.Path, generated: bool) -> None:
    model = make_model(add_batch_norm(make_functional_trunk()))
    options: dict[str, Any] = {"augmentation": ag.Augmentation(brightness=1.0), "steps_per_epoch": 2, "verbose": 0}
    ag.train(model, itertools.cycle(FACES) if generated else make_faces(16), workdir=tmp_path, epochs=1, **options)
    trunk = next(layer for layer in model.layers if isinstance(layer, keras.Model))
    norm = next(layer for layer in trunk.layers if isinstance(layer, keras.layers.BatchNormalization))
    inputs = keras.Model(trunk.inputs[0], norm.input)
    expected = np.mean([np.mean(inputs.predict_on_batch(images), (0, 1, 2)) for images, _ in make_faces(16)], axis=0)
    np.testing.assert_allclose(norm.moving_mean, expected, rtol=1e-4, atol=1e-5)
    for name in ("best.keras", "last.keras"):
        saved = keras.saving.load_model(tmp_path / name)
        for ours, theirs in zip(model.get_weights(), saved.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(("count", "batches"), [(6, 2), (7, 3), (100, 4)])
def test_statistics_are_renewed_on_so_many_images(count: int, batches: int) -> None:
    images = np.arange(4 * 3).reshape(4, 3)  # four batches of three
    np.testing.assert_array_equal(list(renew.take_images(iter(images), count)), images[:batches])


# ---- callbacks


def test_best_model_is_that_of_the_first_lowest_loss_at_full_size(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "model.keras"
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    saver = callbacks._SaveModel(model, path, first_epoch=1, monitor="val_loss")
    for epoch, (loss, saved) in enumerate([(0.0, None), (3.0, 1), (np.nan, 1), (2.0, 3), (2.0, 3), (2.5, 3)]):
        model.layers[0].bias.assign([epoch])
        saver.on_epoch_end(epoch, {"loss": -epoch, "val_loss": loss})
        assert (keras.saving.load_model(path).layers[0].bias[0] if path.exists() else None) == saved
    assert saver.get_state() == 2.0


def test_curves_have_a_point_for_each_epoch(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, *_, **__: drawn.append(figure))
    logs = {"loss": [3, 2], "val_loss": [4, 5], "age_mae": [9, 8], "val_age_mae": [7, 6], "gender_loss": [1, 1]}
    columns = {"epoch": [0, 1], **logs}
    callbacks.draw_curves([dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)], "")
    found = {
        (axes.get_title(), line.get_label()): list(map(list, line.get_data()))
        for axes in drawn[0].axes
        for line in axes.lines
    }
    assert found == {
        ("joint loss", "training"): [[1, 2], [3, 2]],
        ("joint loss", "validation"): [[1, 2], [4, 5]],
        ("age MAE, years", "training"): [[1, 2], [9, 8]],
        ("age MAE, years", "validation"): [[1, 2], [7, 6]],
    }


# ---- Keras's global settings and float16


def test_training_ignores_keras_config(eager: None, tmp_path: pathlib.Path) -> None:
    def train_in(folder: str, model: keras.Model) -> dict[str, list[float]]:
        options: dict[str, Any] = {**one_still_epoch(), "epochs": 2, "image_sizes": [(1, 12)]}
        return ag.train(model, make_faces(16), make_faces(8), workdir=tmp_path / folder, **options).history

    expected, model = train_in("1", make_model()), make_model()
    keras.config.set_floatx("float16")
    keras.config.set_image_data_format("channels_first")
    try:
        assert train_in("2", model) == expected
        assert (keras.config.floatx(), keras.config.image_data_format()) == ("float16", "channels_first")
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_image_data_format("channels_last")


@pytest.fixture
def float16() -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy(before)


def test_float16_scales_the_loss_and_clips_unscaled_gradients(float16: None, tmp_path: pathlib.Path) -> None:
    model = make_model()
    learner = compile_learner(make_learner(model), ag.make_optimizer(steps=10))
    assert isinstance(learner.optimizer, keras.optimizers.LossScaleOptimizer)
    before = [np.array(weight) for weight in model.trainable_weights]
    sgd = keras.optimizers.SGD(1.0, global_clipnorm=0.01)  # the gradients are longer, and 2**15 times when scaled
    ag.train(model, make_faces(8), workdir=tmp_path, epochs=1, optimizer=sgd, verbose=0)
    moved = [np.sum((np.array(w) - b) ** 2) for w, b in zip(model.trainable_weights, before, strict=True)]
    assert np.sqrt(np.sum(moved)) == pytest.approx(0.01, rel=1e-3)
    saved, images = keras.saving.load_model(tmp_path / "last.keras"), next(iter(make_faces(8)))[0]
    assert saved(images)["age"].dtype == "float32"
    np.testing.assert_array_equal(saved(images)["age"], model(images)["age"])


# ---- JAX

ON_JAX = """
import sys, keras, numpy as np
import agegender as ag
seen = set()
step = keras.Model.train_step
keras.Model.train_step = lambda self, state, data: (seen.add(data[0].dtype.name), step(self, state, data))[1]
from agegender.models.batch_norm import add_batch_norm
image = keras.Input((24, 24, 3))
features = keras.layers.GlobalMaxPooling2D()(keras.layers.Conv2D(2, 3, activation="relu")(image))
model = ag.build_model(add_batch_norm(keras.Model(image, features)), units=(8,), age_dropout=(0,), gender_dropout=(0,),
                       age_head="distribution")
images, ages, genders = np.full((4, 24, 24, 3), 9, "uint8"), np.full((4, 1), 30, "float32"), np.ones((4, 1))
class Batches(keras.utils.PyDataset):
    def __len__(self): return 2
    def __getitem__(self, index): return images, (ages, genders), np.ones((4, 1))
ag.train(model, Batches(), Batches(), workdir=sys.argv[1], image_sizes=[(1, 12)], epochs=2, verbose=0)
ages = ages + 200
try:
    ag.train(model, Batches(), workdir=sys.argv[1] + "/2", epochs=1)
except ValueError as error:
    print(keras.backend.backend(), seen, str(error)[:34])
"""


def test_jax_trains_and_checks(tmp_path: pathlib.Path) -> None:
    environ = {**os.environ, "KERAS_BACKEND": "jax"}
    command = [sys.executable, "-c", ON_JAX, str(tmp_path)]
    done = subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "jax {'uint8'} The first batch of `data` breaks t\n", done.stderr
