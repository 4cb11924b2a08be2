"""A released model predicts as its run, and its card says how it was made."""

import io
import json
import pathlib
import zipfile
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from conftest import make_tiny_trunk
from tiny_utkface import prepare

import agegender as ag
from agegender.models.saving import load_model
from agegender.training.run_record import to_json, write_record
from experiments import released_onnx
from experiments.config import default_config
from experiments.release import (
    _read_train_ages,
    estimate_age_prior,
    mix_weights,
    release,
    remove_age_prior,
    save_half_precision,
    tilt_ages,
)
from experiments.train import build_model

CALIBRATION = ag.Calibration(
    coverage=0.9, ages=(0, 116), low=(0, 100), high=(20, 116), temperature=1.5, count=700, flip=True
)


@pytest.mark.parametrize(("epoch", "train_split"), [("best", "train"), ("last", "train"), ("last", "train+validation")])
def test_release(tmp_path: pathlib.Path, epoch: str, train_split: str) -> None:
    images = [{"age": index % 80, "gender": index % 2} for index in range(120)]
    data_dir = prepare(tmp_path / "data", {"train": images[:80], "validation": images, "test": images[:110]})
    config = default_config()
    config.train_split, takes_calibration = train_split, "validation" in train_split
    config.batch_norm, config.calibration.flip, config.model.age_head = True, True, "distribution"
    config.data.update(image_size=48, batch_size=8)
    config.trunk.update(weights=None, trainable="all", width=1 / 64)
    trained, random = build_model(config), np.random.default_rng(1)
    for weight in trained.weights:  # batch statistics, too
        weight.assign(weight + random.uniform(0, 0.1, weight.shape))
    config.init_from = "runs/first" if takes_calibration else ""
    (run := tmp_path / "run").mkdir()
    trained.save(run / f"{epoch}.keras")
    record = {
        "versions": {"keras": "3"},
        "backend": "tensorflow",
        "dtype_policy": "mixed_bfloat16",
        "seconds": {},
        "finished": "2026",
    }
    command = ["train.py", "--config=c.py", f"--workdir={run}", "--config.train.epochs=3"]
    write_record(run, {**record, "config": to_json(config.to_dict()), "command": command})

    out = tmp_path / "small"
    options: dict[str, Any] = {"epoch": epoch, "age_head": "median", "prior_share": 0.5, "age_tilt": 0.02}
    (other := tmp_path / "other").mkdir()
    CALIBRATION.save(other)
    out.mkdir()
    (out / "model-int8.onnx").write_bytes(b"of an older model")
    report = release(run, out, str(data_dir), calibration=other if takes_calibration else None, **options)

    # The model: folded, in half precision, with the other age head.
    released = load_model(out)
    norms = [each.name for each in released._flatten_layers() if isinstance(each, keras.layers.BatchNormalization)]
    assert norms == ["feature_batch_norm"]  # of the heads; those of the trunk are folded into its convolutions
    assert {weight.dtype for weight in released.weights} == {"float32"}
    stored: list[str] = []
    with zipfile.ZipFile(out / "best.keras") as archive:
        weights = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(weights) as file:
        file.visititems(lambda _, item: stored.append(str(item.dtype)) if isinstance(item, h5py.Dataset) else None)
    assert set(stored) == {"float16"}
    config.model.age_head, config.init_from = "median", ""
    (expected := build_model(config)).set_weights(trained.get_weights())
    remove_age_prior(expected, np.arange(120 if takes_calibration else 80) % 80, 0.5)  # the ages of the training images
    tilt_ages(expected, 0.02)
    batch = random.integers(0, 256, (8, 48, 48, 3)).astype("uint8")
    for head, values in expected.predict_on_batch(batch).items():
        np.testing.assert_allclose(released.predict_on_batch(batch)[head], values, rtol=0.02, atol=0.01)

    # What lies beside it.
    assert {path.name for path in out.iterdir()} == {"best.keras", "calibration.json", "recipe.json", "README.md"}
    calibration = json.loads((out / "calibration.json").read_text())
    assert calibration["flip"] is True
    assert calibration["count"] == (700 if takes_calibration else 120 + 110)  # both splits, after the report on one
    assert report.count == 110 and (run / "released" / "report.html").is_file()
    recipe = json.loads((out / "recipe.json").read_text())
    assert recipe["config"]["model"]["age_head"] == "distribution"
    name = "models/other" if takes_calibration else ""
    assert recipe["released_with"] == {**options, "start_share": 0.0, "calibration": name}
    assert recipe["calibrated_on"] == ("validation" if takes_calibration else "validation+test")
    assert (recipe["versions"], recipe["dtype_policy"]) == ({"keras": "3"}, "mixed_bfloat16")
    card = (out / "README.md").read_text()
    assert "\npython -m experiments.train --config=c.py --config.train.epochs=3 --workdir=runs/small\n" in card
    chosen = " --epoch=last" if epoch == "last" else ""
    command_line = (
        f"--workdir=runs/small --out=models/small{chosen} --age_head=median --prior_share=0.5 --age_tilt=0.02"
    )
    command_line += " --calibration=models/other" if takes_calibration else ""
    assert f"\npython -m experiments.release {command_line}\n" in card
    assert (f"trained on the {train_split} split; the last epoch was taken." in card) == (epoch == "last")
    assert "## Results on the test split" in card
    assert ("calibration.json was then fitted on both splits." in card) != takes_calibration
    assert ("split, for a model of the same recipe that was not trained on it." in card) == takes_calibration
    assert f"trained from {'the weights of runs/first' if takes_calibration else 'random weights'}." in card
    for text in ("48 x 48 pixels", "0.0156 times as wide", "train 80, validation 120, test 110", str(report)):
        assert text in card


def test_onnx_file_reads_the_weights_in_the_keras_file(tmp_path: pathlib.Path) -> None:
    convolutions = [keras.layers.Conv2D(40, 3, strides=2), keras.layers.Conv2D(40, 3, strides=2)]
    layers = [keras.Input((24, 24, 3)), *convolutions, keras.layers.GlobalAveragePooling2D()]
    model, random = ag.build_model(keras.Sequential(layers), age_head="median"), np.random.default_rng(1)
    for weight in model.trainable_weights:
        weight.assign(weight + random.normal(0, 0.05, weight.shape))
    save_half_precision(model, tmp_path / "best.keras")
    released_onnx.main(tmp_path)
    assert (tmp_path / "model.onnx").stat().st_size < 0.3 * (tmp_path / "best.keras").stat().st_size
    images = random.integers(0, 256, (9, 24, 24, 3)).astype("uint8")
    for flip in (False, True):
        by_onnx, by_keras = (
            [photograph[0] for photograph in ag.Predictor(tmp_path / name, aligned=True, flip=flip)(images)]
            for name in ("model.onnx", "best.keras")
        )
        ages = [face.age for face in by_keras]
        assert [face.age for face in by_onnx] == pytest.approx(ages, abs=1e-3) and np.ptp(ages) > 0.1
    path = tmp_path / "best.keras"
    path.write_bytes(path.read_bytes()[::-1][:10])
    with pytest.raises(ValueError, match="damaged"):
        ag.Predictor(tmp_path / "model.onnx")


def test_age_prior_is_of_the_images_that_were_trained_on(tmp_path: pathlib.Path) -> None:
    images = [{"age": age, "gender": age % 2} for age in range(80)]
    data_dir = prepare(tmp_path, {"train": images, "validation": images})
    config = default_config()
    assert sorted(_read_train_ages(config, str(data_dir))) == list(range(80))
    with config.ignore_type():
        config.data.update(ages=(21, 60), genders=["female"])
    config.train_split = "validation"
    assert sorted(_read_train_ages(config, str(data_dir))) == list(range(21, 60, 2))


def test_refused_before_anything_is_written(tmp_path: pathlib.Path) -> None:
    data_dir = str(prepare(tmp_path / "data", {"train": [{"age": 1, "gender": 0}]}))
    (run := tmp_path / "run").mkdir()
    record = {"config": to_json(default_config().to_dict()), "seconds": {}}
    write_record(run, record)
    with pytest.raises(ValueError, match=r"The run in .*run has not finished. Resume it"):
        release(run, tmp_path / "out", data_dir, epoch="last")
    record["finished"] = "2026-11-28T10:00:00+00:00"
    write_record(run, record)
    for folder in (run / ".." / "run", run / "released", tmp_path / "other"):
        with pytest.raises(ValueError, match="`out` must not be the folder of a run, a report or `calibration`"):
            release(run, folder, data_dir, calibration=tmp_path / "other")
    with pytest.raises(ValueError, match="tset"):
        release(run, tmp_path / "out", data_dir, split="tset")
    with pytest.raises(ValueError, match=r"folder of a run of experiments.train. Received: .*run.json"):
        release(run / "run.json", tmp_path / "out", data_dir)
    with pytest.raises(ValueError, match=r"not trained on. Received: train_split='train', split='train\[:10%\]'"):
        release(run, tmp_path / "out", data_dir, split="train[:10%]")
    options: dict[str, Any]
    for options in ({"start_share": float("nan")}, {"prior_share": float("nan")}, {"age_tilt": float("nan")}):
        with pytest.raises(ValueError, match="Shares and tilt must be numbers"):
            release(run, tmp_path / "out", data_dir, **options)
    for options in ({"age_head": "median"}, {"prior_share": 0.2}, {"age_tilt": 0.01}):
        with pytest.raises(ValueError, match=r"Received: age_head=.*, age_tilt=.*, for a run with 'regression'"):
            release(run, tmp_path / "out", data_dir, **options)
    with pytest.raises(ValueError, match=r"`calibration` must be a folder with a calibration.json. Received: .*run"):
        release(run, tmp_path / "out", data_dir, calibration=run)
    record["config"]["train_split"] = "train+validation[:50%]"
    write_record(run, record)
    recipe: dict[str, Any]
    for recipe in ({"config": {"train_split": "all"}}, {"calibrated_on": "validation+test"}):
        (wrong := tmp_path / next(iter(recipe))).mkdir()
        CALIBRATION.save(wrong)
        (wrong / "recipe.json").write_text(json.dumps(recipe))
        with pytest.raises(ValueError, match=r"trained on train alone and released with --split=validation. Received:"):
            release(run, tmp_path / "out", data_dir, epoch="last", calibration=wrong)
    (other := tmp_path / "other").mkdir()
    CALIBRATION.save(other)
    for options in ({}, {"epoch": "last"}, {"calibration": other}):
        with pytest.raises(
            ValueError, match=r"trained on the validation split, .* Give --epoch=last and --calibration"
        ):
            release(run, tmp_path / "out", data_dir, **options)
    assert not (tmp_path / "out").exists()


def test_folder_without_a_run_is_refused(tmp_path: pathlib.Path) -> None:
    for content in (None, "{}", '{"config": null}', "{"):
        if content is not None:
            (tmp_path / "run.json").write_text(content)
        with pytest.raises(ValueError, match=r"folder of a run|not the record of a run"):
            release(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_mixed_weights_and_their_statistics() -> None:
    (start := ag.build_model(make_tiny_trunk())), (model := ag.build_model(make_tiny_trunk()))
    random = np.random.default_rng(1)
    for weight in (*start.weights, *model.weights):
        weight.assign(weight + random.uniform(0, 0.1, weight.shape))
    before, after = start.get_weights(), model.get_weights()
    images = random.integers(0, 256, (8, 24, 24, 3)).astype("uint8")
    mix_weights(model, start, 0.2, [images])
    for weight, first, last in zip(model.weights, before, after, strict=True):
        if "moving_" not in weight.path:
            np.testing.assert_allclose(weight, 0.2 * first + 0.8 * last, rtol=1e-5, err_msg=weight.path)
    norm = model.get_layer("feature_batch_norm")
    features = keras.Model(model.inputs[0], norm.input)(images)
    np.testing.assert_allclose(norm.moving_mean, np.mean(features, axis=0), rtol=1e-4, atol=1e-5)


def test_share_of_the_start_needs_one(tmp_path: pathlib.Path) -> None:
    config = {**to_json(default_config().to_dict()), "init_from": ""}
    write_record(tmp_path, {"config": config, "seconds": {}})
    with pytest.raises(ValueError, match=r"`start_share` needs a run with `init_from`. Received: start_share=0.2"):
        release(tmp_path, tmp_path / "out", start_share=0.2)
    assert not (tmp_path / "out").exists()


def test_age_prior_by_hand() -> None:
    # A tenth is even: 0.1 / 117 = 0.000855. The rest is a normal curve of 3 years: 0.9 / (3 sqrt(2 pi)) at its top.
    prior = estimate_age_prior(np.array([50, 50]))
    np.testing.assert_allclose(prior[[50, 53, 100]], [0.119683 + 0.000855, 0.072591 + 0.000855, 0.000855], rtol=1e-3)
    assert prior.sum() == pytest.approx(1)
    twice = estimate_age_prior(np.array([10, 50, 50, 50]))
    assert twice[50] - 0.1 / 117 == pytest.approx(3 * (twice[10] - 0.1 / 117), rel=1e-3)


def test_removed_prior_divides_the_distribution() -> None:
    ages = np.random.default_rng(0).integers(0, 60, 500)
    model = ag.build_model(make_tiny_trunk(), age_head="distribution")
    images = np.random.default_rng(1).integers(0, 256, (3, 24, 24, 3)).astype("uint8")
    distribution = keras.Model(model.inputs[0], model.get_layer("age_distribution").output)
    before = distribution.predict_on_batch(images)
    remove_age_prior(model, ages, 0.7)
    expected = before / estimate_age_prior(ages) ** 0.7
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(distribution.predict_on_batch(images), expected, rtol=1e-4, atol=1e-7)


def test_tilted_distribution() -> None:
    model = ag.build_model(make_tiny_trunk(), age_head="distribution")
    images = np.random.default_rng(1).integers(0, 256, (3, 24, 24, 3)).astype("uint8")
    distribution = keras.Model(model.inputs[0], model.get_layer("age_distribution").output)
    before = distribution.predict_on_batch(images)
    tilt_ages(model, 0.1)
    after = distribution.predict_on_batch(images)
    # Ten years divide the odds by e, up to 60 years.
    np.testing.assert_allclose(after[:, 60] / after[:, 50], before[:, 60] / before[:, 50] / np.e, rtol=1e-4)
    np.testing.assert_allclose(after[:, 70] / after[:, 60], before[:, 70] / before[:, 60], rtol=1e-4)
    np.testing.assert_allclose(after.sum(axis=1), 1, rtol=1e-5)
