"""`agegender.training.trunk_cache`: training on cached features is training on the images."""

import json
import os
import pathlib
import subprocess
import sys
import types

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
        ("dlib", "last_block"),
        *(
            pytest.param("resnet50", each, marks=pytest.mark.slow) for each in ("last_block", 9)
        ),  # 9: through a shortcut
        pytest.param("senet50", "last_block", marks=pytest.mark.slow),
    ],
)
def test_both_parts_together_are_the_model(architecture: str, trainable: str | int) -> None:
    model = build(architecture, trainable)
    frozen, rest = trunk_cache.split_model(model)
    images = batches()[0][0]
    expected, got = model(images), rest(frozen(images))
    for head in ("age", "gender"):
        np.testing.assert_allclose(expected[head], got[head], rtol=1e-5, atol=1e-5)
    assert not frozen.trainable_weights
    assert len(rest.trainable_weights) == len(model.trainable_weights)


def test_split_is_after_the_last_frozen_pooling() -> None:
    frozen, _ = trunk_cache.split_model(build())
    assert frozen.output_shape == (None, 3, 3, 64) and frozen.layers[-1].name == "pool4"


def test_trunk_without_frozen_layers_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match=r"needs frozen layers at the start of the trunk.*26 trainable weights"):
        ag.train(build(trainable="all"), Listed(batches()), workdir=tmp_path / "run", epochs=1, cache_trunk=1)
    assert not (tmp_path / "run").exists()


def fit(
    workdir: pathlib.Path, *, epochs: int, cache_trunk: int, architecture: str = "vgg16", **options
) -> tuple[dict, keras.Model]:
    model = build(architecture)
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


@pytest.mark.parametrize("architecture", ["vgg16", "dlib"])  # dlib: a shortcut crosses the split
def test_cached_epochs_match_a_run_without_cache(eager: None, architecture: str, tmp_path: pathlib.Path) -> None:
    (plain, one), (cached, other) = (
        fit(tmp_path / str(k), epochs=2, cache_trunk=k, architecture=architecture) for k in (0, 2)
    )
    assert plain.keys() == cached.keys()
    for name, values in plain.items():
        np.testing.assert_allclose(cached[name], values, rtol=1e-4, err_msg=name)
    for a, b in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    assert not (tmp_path / "2" / "trunk_cache").exists()
    saved = keras.saving.load_model(tmp_path / "2" / "last.keras")
    np.testing.assert_array_equal(saved(batches()[0][0])["age"], other(batches()[0][0])["age"])


def test_sample_weights_are_cached(tmp_path: pathlib.Path) -> None:
    frozen, _ = trunk_cache.split_model(build())
    weighted = [(*batch, np.full((4, 1), step, "float32")) for step, batch in enumerate(batches())]
    replayed = trunk_cache.cache_features(frozen, weighted, tmp_path, steps_per_epoch=3)
    assert len(replayed) == 3
    for step, (_, targets, weights) in enumerate(weighted):
        _, again, given = replayed[step]
        np.testing.assert_array_equal(again["age"], targets["age"])
        np.testing.assert_array_equal(given, weights)


def test_later_epochs_replay_shuffled_views(tmp_path: pathlib.Path) -> None:
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


def test_cache_is_removed_after_a_failure(tmp_path: pathlib.Path) -> None:
    class Fail(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
            assert (tmp_path / "trunk_cache").exists()
            raise RuntimeError("a fault of the test")

    with pytest.raises(RuntimeError, match="a fault of the test"):
        fit(tmp_path, epochs=1, cache_trunk=1, callbacks=[Fail()])
    assert not (tmp_path / "trunk_cache").exists()


def test_disk_space_is_checked_before_writing(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frozen, _ = trunk_cache.split_model(build())
    needed = 2 * 3 * 4 * (3 * 3 * 64) * 4  # epochs, batches, images, features, bytes
    for free, fits in ((needed / 0.95 - 1, False), (needed / 0.95 + 1, True)):
        usage = types.SimpleNamespace(free=free)
        monkeypatch.setattr(trunk_cache.shutil, "disk_usage", lambda _, usage=usage: usage)
        folder = tmp_path / str(fits)
        if fits:
            trunk_cache.cache_features(frozen, batches() * 2, folder, steps_per_epoch=3, cached_epochs=2)
            assert sum(path.stat().st_size for path in folder.iterdir()) == needed
        else:
            with pytest.raises(OSError, match=r"The feature cache needs 0\.0 GB in .*, but 0\.0 GB are free"):
                trunk_cache.cache_features(frozen, batches() * 2, folder, steps_per_epoch=3, cached_epochs=2)
            assert not list(folder.iterdir())


def test_split_through_a_shortcut_has_two_features() -> None:
    image = keras.Input((SIZE, SIZE, 3))
    first = keras.layers.Conv2D(4, 3, padding="same", trainable=False)(image)
    second = keras.layers.Conv2D(4, 3, padding="same", trainable=False)(first)
    third = keras.layers.Conv2D(4, 3, padding="same")(second)
    trunk = keras.Model(image, keras.layers.GlobalAveragePooling2D()(keras.layers.Add()([first, third])))
    model = ag.build_model(trunk)
    for layer in (model.get_layer("age_deviations"), model.get_layer("gender")):
        layer.kernel.assign(np.random.default_rng(0).normal(size=layer.kernel.shape))
    frozen, rest = trunk_cache.split_model(model)
    assert [tensor.shape[1:] for tensor in frozen.outputs] == [(SIZE, SIZE, 4)] * 2
    images = batches()[0][0]
    expected, received = model(images), rest(frozen(images))
    np.testing.assert_allclose(expected["age"], received["age"], rtol=1e-5)


@pytest.mark.parametrize("cache_trunk", [-1, 3, True, 1.0])
def test_cached_epochs_out_of_range(tmp_path: pathlib.Path, cache_trunk: object) -> None:
    with pytest.raises(ValueError, match=r"`cache_trunk` must be in 0\.\.2 epochs"):
        ag.train(build(), Listed(batches()), workdir=tmp_path / "run", epochs=2, cache_trunk=cache_trunk)
    assert not (tmp_path / "run").exists()


def test_features_have_the_dtype_of_the_trunk(tmp_path: pathlib.Path) -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        frozen, _ = trunk_cache.split_model(build())
        cached = trunk_cache.cache_features(frozen, batches(), tmp_path, steps_per_epoch=3)
    finally:
        keras.config.set_dtype_policy("float32")
    assert cached[0][0].dtype.name == "bfloat16"
    assert (tmp_path / "features-0").stat().st_size == 12 * 3 * 3 * 64 * 2


@pytest.mark.slow
def test_cached_run_trains_on_jax() -> None:
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
