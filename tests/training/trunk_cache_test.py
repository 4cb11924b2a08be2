"""`agegender.training.trunk_cache`: a run on recorded features is the run that it records."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

import agegender as ag
from agegender.training import trunk_cache

SIZE = 48


def batches(count: int = 12, batch_size: int = 4, heads: tuple[str, ...] = ("age", "gender")) -> list:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count, SIZE, SIZE, 3), "uint8")
    targets = {"age": random.uniform(1, 90, (count, 1)), "gender": random.integers(0, 2, (count, 1))}
    slices = [slice(at, at + batch_size) for at in range(0, count, batch_size)]
    return [(images[at], {head: targets[head][at].astype("float32") for head in heads}) for at in slices]


class Listed(keras.utils.PyDataset):
    """Batches in the order of a list."""

    def __init__(self, listed: list) -> None:
        super().__init__()
        self.listed = listed

    def __len__(self) -> int:
        return len(self.listed)

    def __getitem__(self, index: int):
        return self.listed[index]


def build(architecture: str = "vgg16", trainable: str | int = "last_block", **options) -> keras.Model:
    keras.utils.set_random_seed(3)
    width = 0.125 if architecture == "vgg16" else 1
    trunk = ag.vggface_trunk(architecture, image_size=SIZE, weights=None, trainable=trainable, width=width, seed=3)
    return ag.build_model(trunk, **options)


@pytest.mark.parametrize(
    ("architecture", "trainable"),
    [
        *(("vgg16", trainable) for trainable in ("last_block", "none", 2, 9)),
        *(("resnet50", trainable) for trainable in ("last_block", 9)),  # 9: through a shortcut
        ("senet50", "last_block"),
    ],
)
def test_the_two_parts_together_are_the_model(architecture: str, trainable: str | int) -> None:
    model = build(architecture, trainable)
    frozen, rest = trunk_cache.split_model(model)
    images = batches()[0][0]
    expected, got = model(images), rest(frozen(images))
    for head in ("age", "gender"):
        np.testing.assert_allclose(expected[head], got[head], rtol=1e-5, atol=1e-5)
    assert not frozen.trainable_weights
    assert len(rest.trainable_weights) == len(model.trainable_weights)


def test_the_cut_is_after_the_last_pooling_that_is_frozen() -> None:
    frozen, _ = trunk_cache.split_model(build())
    assert frozen.output_shape == (None, 3, 3, 64) and frozen.layers[-1].name == "pool4"


def test_a_trunk_that_learns_everywhere_cannot_be_cached(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match=r"needs frozen layers at the start of the trunk.*26 trainable weights"):
        ag.train(build(trainable="all"), batches(), workdir=tmp_path / "run", epochs=1, cache_trunk=1)
    assert not (tmp_path / "run").exists()


def fit(workdir: pathlib.Path, *, epochs: int, cache_trunk: int, **options) -> tuple[dict, keras.Model]:
    model = build()
    keras.utils.set_random_seed(5)
    history = ag.train(
        model,
        Listed(batches()),
        Listed(batches(6)),
        workdir=workdir,
        epochs=epochs,
        augmentation=ag.Augmentation(seed=1),
        cache_trunk=cache_trunk,
        verbose=0,
        **options,
    )
    return history.history, model


def test_recorded_epochs_are_those_of_a_run_without_a_cache(tmp_path: pathlib.Path) -> None:
    (plain, one), (cached, other) = (fit(tmp_path / str(k), epochs=2, cache_trunk=k) for k in (0, 2))
    assert plain.keys() == cached.keys()
    for name, values in plain.items():
        np.testing.assert_allclose(cached[name], values, rtol=1e-4, err_msg=name)
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_weights_of_images_are_recorded_with_them(tmp_path: pathlib.Path) -> None:
    frozen, _ = trunk_cache.split_model(build())
    weighed = [(*batch, np.full((4, 1), step, "float32")) for step, batch in enumerate(batches())]
    replayed = trunk_cache.cache_features(frozen, weighed, tmp_path, steps_per_epoch=3)
    assert len(replayed) == 3
    for step, (_, targets, weights) in enumerate(weighed):
        _, again, given = replayed[step]
        np.testing.assert_array_equal(again["age"], targets["age"])
        np.testing.assert_array_equal(given, weights)


def test_later_epochs_replay_the_same_images_in_another_order(tmp_path: pathlib.Path) -> None:
    frozen, _ = trunk_cache.split_model(build())
    replayed = trunk_cache.cache_features(
        frozen,
        batches() * 2,
        tmp_path,
        steps_per_epoch=3,
        cached_epochs=2,
        epochs=4,
        augmentation=ag.Augmentation(),
    )
    assert len(replayed) == 12
    epochs = []
    for epoch in range(4):
        steps = [replayed[3 * epoch + step] for step in range(3)]
        epochs.append([np.concatenate([f for f, _ in steps]), np.concatenate([t["age"] for _, t in steps])])
    ages = [age[:, 0].tolist() for _, age in epochs]
    assert ages[0] == ages[1] and ages[2] != ages[0] and ages[3] != ages[2]
    assert all(sorted(age) == sorted(ages[0]) for age in ages)
    rows = [np.argsort(age) for age in ages]
    views = [features[order] for (features, _), order in zip(epochs, rows, strict=True)]
    np.testing.assert_array_equal(views[0], views[2])
    np.testing.assert_array_equal(views[1], views[3])
    assert not np.array_equal(views[0], views[1])  # two views of the same images


def test_the_cache_is_gone_after_training_and_the_model_predicts_from_images(tmp_path: pathlib.Path) -> None:
    _, model = fit(tmp_path, epochs=3, cache_trunk=1)
    assert not (tmp_path / "trunk_cache").exists()
    images = batches()[0][0]
    saved = ag.Predictor(tmp_path / "last.keras").model
    np.testing.assert_array_equal(saved.predict_on_batch(images)["age"], model.predict_on_batch(images)["age"])


def test_the_cache_is_gone_after_a_training_that_failed(tmp_path: pathlib.Path) -> None:
    class Fail(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
            assert (tmp_path / "trunk_cache").exists()
            raise RuntimeError("a fault of the test")

    with pytest.raises(RuntimeError, match="a fault of the test"):
        fit(tmp_path, epochs=1, cache_trunk=1, callbacks=[Fail()])
    assert not (tmp_path / "trunk_cache").exists()


def test_a_disk_that_is_too_small_is_named_before_anything_is_written(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: os.terminal_size((0, 0)) and type("Usage", (), {"free": 1000}))
    with pytest.raises(OSError, match=r"The feature cache needs 0\.0 GB in .*, but 0\.0 GB are free"):
        fit(tmp_path, epochs=1, cache_trunk=1)
    assert not (tmp_path / "trunk_cache").exists()


@pytest.mark.parametrize("cache_trunk", [-1, 3, True, 1.0])
def test_more_epochs_than_there_are_cannot_be_recorded(tmp_path: pathlib.Path, cache_trunk: object) -> None:
    with pytest.raises(ValueError, match=r"`cache_trunk` must be in 0\.\.2 epochs"):
        ag.train(build(), batches(), workdir=tmp_path / "run", epochs=2, cache_trunk=cache_trunk)
    assert not (tmp_path / "run").exists()


def test_features_are_kept_in_the_dtype_of_the_trunk(tmp_path: pathlib.Path) -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        history, _ = fit(tmp_path / "run", epochs=2, cache_trunk=1)
        frozen, _ = trunk_cache.split_model(build())
        replayed = trunk_cache.cache_features(frozen, batches(), tmp_path / "cache", steps_per_epoch=3)
    finally:
        keras.config.set_dtype_policy("float32")
    assert replayed[0][0].dtype.name == "bfloat16"
    assert (tmp_path / "cache" / "features-0").stat().st_size == 12 * 3 * 3 * 64 * 2
    assert np.isfinite(history["loss"]).all()


def test_a_recorded_run_trains_on_jax() -> None:
    code = """
import pathlib, sys, tempfile
sys.path.insert(0, "tests/training")
import trunk_cache_test as tests
with tempfile.TemporaryDirectory() as folder:
    print(tests.fit(pathlib.Path(folder), epochs=2, cache_trunk=1)[0]["loss"])
"""
    environ = {**os.environ, "KERAS_BACKEND": "jax"}
    root = pathlib.Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert all(0 < loss < 20 for loss in json.loads(done.stdout))
