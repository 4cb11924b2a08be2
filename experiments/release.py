r"""Makes a model to publish from a trained run: folded, in half precision, calibrated, evaluated, with a model card.

    python -m experiments.release --workdir=runs/1 --out=models/utkface64 --data_dir=...

Writes best.keras, calibration.json, recipe.json (config and versions) and README.md (the card) to OUT, and the report
on the test split, which shows faces, to WORKDIR/released. The report is of a calibration on the validation split; the
published calibration is then fitted on validation and test together: twice the images make it more reliable. A run on
train and validation together takes the calibration of a model of the same recipe that was trained on train alone.
"""

import dataclasses
import io
import json
import math
import pathlib
import zipfile
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from absl import flags
from ml_collections import ConfigDict
from numpy.typing import NDArray

from agegender.released import INT8_MODEL, ONNX_MODEL
from agegender.schema import AGE, AGE_DISTRIBUTION, AGES, BEST_MODEL, SPLITS
from agegender.training.run_record import FINISHED, RECORD, read_record
from experiments import command
from experiments.calibrate import calibrate_run, overlap, read_recipe, read_train_split
from experiments.evaluate import evaluate_and_print
from experiments.train import build_model

if TYPE_CHECKING:
    import keras

    from agegender import Calibration, Report

PRIOR_STD: Final = 3.0  # years
_UNTILTED_FROM: Final = 60  # from which on ages are tilted no further
_WEIGHTS: Final = "model.weights.h5"  # in a .keras file
_CARD: Final = """\
# {name}

## What it is

A model that predicts age and recorded gender from an aligned face of {size} x {size} pixels, cropped as in UTKFace:
{architecture}, with heads for {heads}, trained from {weights}. Weights are stored as float16.
`agegender.Predictor` loads it from this folder.

## What it is not for

It guesses from appearance and is often wrong. Gender is one of two words that somebody, or another program, wrote
down about a photograph, not how a person identifies. Do not use it to decide about people. UTKFace is for
non-commercial research only, and so is this model.

## Data

UTKFace's aligned and cropped images, data set version {version}: {counts}. Near-identical photographs share a split.
The weights were trained on the {train_split} split; {chosen_epoch}.
datasets/utkface/README.md lists the problems of the labels.

## Recipe

recipe.json has every option and the versions. In the project, with the data set prepared:

```sh
{commands}
```

## Results on the {split} split

With age intervals and a gender temperature fitted on the validation split{calibrated}.

```
{report}
```
"""


def release(
    workdir: pathlib.Path,
    out: pathlib.Path,
    data_dir: str | None = None,
    *,
    epoch: str = "best",
    start_share: float = 0.0,
    age_head: str = "",
    prior_share: float = 0.0,
    age_tilt: float = 0.0,
    calibration: pathlib.Path | None = None,
    split: str = "test",
) -> "Report":
    """Folds, stores, calibrates and evaluates the model of a run, and writes its card.

    Args:
        workdir: folder of the run.
        out: folder of the model to publish.
        data_dir: where `tfds build` wrote.
        epoch: "best", the one with the smallest validation loss, or "last".
        start_share: share of the weights that the run started from (`init_from`) in those to publish, see
            `mix_weights`.
        age_head: another age head with the same weights, "median" for "distribution"; empty keeps that of the run.
        prior_share: how much of the training ages' distribution to take out of the answers, see `remove_age_prior`.
        age_tilt: how much to make the answers younger, see `tilt_ages`.
        calibration: folder of a model whose calibration to take instead of fitting one, for a run that was trained on
            the validation split, too: of the same recipe and options, but not trained on it.
        split: the split of the card's numbers; "validation" while you choose options.
    """
    import keras

    import agegender as ag
    from agegender.models.batch_norm import fold_batch_norm
    from agegender.models.saving import load_model

    run = read_record(workdir) if workdir.is_dir() else {}
    if not run.get("config"):
        raise ValueError(f"`workdir` must be the folder of a run of experiments.train. Received: {workdir}")
    if epoch == "last" and not run.get(FINISHED):
        raise ValueError(f"The run in {workdir} has not finished. Resume it with its command, or give --epoch=best.")
    others = [workdir / "released", *([calibration] if calibration else [])]
    if (out / RECORD).is_file() or out.resolve() in [each.resolve() for each in others]:
        raise ValueError(f"`out` must not be the folder of a run, a report or `calibration`. Received: {out}")
    if not all(math.isfinite(each) for each in (start_share, prior_share, age_tilt)):
        raise ValueError(f"Shares and tilt must be numbers. Received: {start_share=}, {prior_share=}, {age_tilt=}")
    config = ConfigDict(run["config"])
    if start_share and not config.init_from:
        raise ValueError(f"`start_share` needs a run with `init_from`. Received: {start_share=}, workdir={workdir}")
    trained_head = config.model.age_head if AGE in config.model.heads else "no age head"
    has_distribution = {trained_head, age_head or trained_head} <= {"distribution", "median"}
    if (age_head or prior_share or age_tilt) and not has_distribution:
        raise ValueError(
            "`age_head`, `prior_share` and `age_tilt` change a distribution of ages, or its median. "
            f"Received: {age_head=}, {prior_share=}, {age_tilt=}, for a run with {trained_head!r}"
        )
    if overlap(config.train_split, split):
        raise ValueError(
            "The report must be on images that were not trained on. "
            f"Received: train_split={config.train_split!r}, {split=}"
        )
    taken = _take_calibration(calibration) if calibration else None
    if overlap(config.train_split, "validation") and not (taken and epoch == "last"):
        raise ValueError(
            "The run was trained on the validation split, so it cannot choose an epoch or calibrate there. Give "
            "--epoch=last and --calibration=FOLDER, a model of the same recipe that was not trained on it. "
            f"Received: train_split={config.train_split!r}, {epoch=}, calibration={str(calibration or '')!r}"
        )
    calibrates_on_both = split == "test" and not taken
    card_facts = _describe_model(config, epoch, start_share)
    options = {
        "epoch": epoch,
        "start_share": start_share,
        "age_head": age_head,
        "prior_share": prior_share,
        "age_tilt": age_tilt,
        "calibration": f"models/{calibration.name}" if calibration else "",
    }

    # The trained weights in a float32 model with the age head to publish.
    keras.config.set_dtype_policy("float32")
    with config.ignore_type():
        config.trunk.weights = None
        start, config.init_from = config.init_from, str(workdir / f"{epoch}.keras")
    config.model.age_head = age_head or config.model.age_head
    ag.load_utkface(split, batch_size=1, data_dir=data_dir)  # a missing data set or split must not leave half a model
    out.mkdir(parents=True, exist_ok=True)
    model = build_model(config)
    if start_share:
        batches = ag.load_utkface(config.train_split, data_dir=data_dir, **{**config.data, "embeddings": None})
        mix_weights(model, load_model(start), start_share, (images for images, _ in batches))
    model = fold_batch_norm(model)
    if prior_share:
        remove_age_prior(model, _read_train_ages(config, data_dir), prior_share)
    if age_tilt:
        tilt_ages(model, age_tilt)
    save_half_precision(model, out / BEST_MODEL)
    for name in (ONNX_MODEL, INT8_MODEL):  # of the model that was here before
        (out / name).unlink(missing_ok=True)
    recipe = {key: run[key] for key in ("config", "versions", "backend", "dtype_policy")}
    recipe["released_with"] = {**options, "age_head": config.model.age_head}
    recipe["calibrated_on"] = "validation+test" if calibrates_on_both else "validation"
    (out / "recipe.json").write_text(json.dumps(recipe, indent=2) + "\n")

    # Evaluate with a calibration that has not seen the split, then calibrate on both.
    if taken:
        taken.save(out)
    else:
        calibrate_run(out, data_dir, **config.calibration)
    report = evaluate_and_print(out, split, data_dir=data_dir, out=workdir / "released")
    if calibrates_on_both:
        calibrate_run(out, data_dir, split="validation+test", **config.calibration)

    commands = _list_commands(out.name, run, options)
    card_facts["calibrated"] = ""
    if taken:
        card_facts["calibrated"] = ", for a model of the same recipe that was not trained on it"
    elif calibrates_on_both:
        card_facts["calibrated"] = "; calibration.json was then fitted on both splits"
    (out / "README.md").write_text(
        _write_card(out.name, card_facts, commands, report, data_dir, split), encoding="utf-8"
    )
    return report


def _take_calibration(folder: pathlib.Path) -> "Calibration":
    """The calibration of a model that was trained on neither validation nor test, fitted on the validation split."""
    import agegender as ag

    calibration = ag.load_calibration(folder) if folder.is_dir() else None
    if not calibration:
        raise ValueError(f"`calibration` must be a folder with a calibration.json. Received: {folder}")
    train_split, fitted_on = read_train_split(folder), read_recipe(folder).get("calibrated_on", "validation")
    if overlap(train_split, "validation+test") or fitted_on != "validation":
        raise ValueError(
            "`calibration` must be of a model that was trained on train alone and released with --split=validation. "
            f"Received: {folder}, trained on {train_split!r}, calibrated on {fitted_on!r}"
        )
    return calibration


def mix_weights(model: "keras.Model", start: "keras.Model", share: float, batches: Iterable[Any]) -> None:
    """Moves the weights of a model back towards those that its training started from.

    Between both weights lie models that are as good on UTKFace, and can be better on other photographs (Wortsman et al.
    2022, arXiv 2109.01903). They cost as much as one.

    Args:
        model: changed in place.
        start: a model with the same layers.
        share: 0 changes nothing, 1 is `start`.
        batches: training images, to measure the statistics of batch normalization anew.
    """
    from agegender.models.batch_norm import renew_statistics

    pairs = zip(start.get_weights(), model.get_weights(), strict=True)
    model.set_weights([share * before + (1 - share) * after for before, after in pairs])
    renew_statistics(model, batches)


def remove_age_prior(model: "keras.Model", ages: NDArray[Any], share: float) -> None:
    """Divides the age distribution by the distribution of the training ages to the power of `share`.

    A model that is trained on few old people guesses them too young. Logit adjustment after training (Menon et al.
    2021, arXiv 2007.07314) is a change of the bias of the last layer, so it costs nothing in prediction.

    Args:
        model: with a distribution of ages; changed in place.
        ages: of the training images, whole years.
        share: 0 changes nothing, 1 makes all ages equally likely beforehand.
    """
    layer = model.get_layer(AGE_DISTRIBUTION)
    kernel, bias = layer.get_weights()
    layer.set_weights([kernel, bias - share * np.log(estimate_age_prior(ages))])


def tilt_ages(model: "keras.Model", tilt: float) -> None:
    """Multiplies the probability of each age by exp(-tilt * min(age, 60)), and normalizes the distribution again.

    Without it, the released recipe answers half a year too old on the validation split, most where it is unsure. The
    answers become younger by about the tilt times the variance of the distribution, least from 60 on, where they are
    too young already. Like `remove_age_prior`, it is a change of the bias of the last layer.

    Args:
        model: with a distribution of ages; changed in place.
        tilt: per year; 0 changes nothing, below 0 makes the answers older.
    """
    layer = model.get_layer(AGE_DISTRIBUTION)
    kernel, bias = layer.get_weights()
    layer.set_weights([kernel, bias - tilt * np.minimum(np.arange(AGES), _UNTILTED_FROM)])


def estimate_age_prior(ages: NDArray[Any]) -> NDArray[np.float64]:
    """The share of each age, [117]: smoothed over `PRIOR_STD` years, and a tenth spread evenly over all ages."""
    from scipy.ndimage import gaussian_filter1d

    counts = np.bincount(np.asarray(ages, int), minlength=AGES).astype("float64")
    return 0.9 * gaussian_filter1d(counts / counts.sum(), PRIOR_STD, mode="reflect") + 0.1 / AGES


def _read_train_ages(config: ConfigDict, data_dir: str | None) -> NDArray[Any]:
    """The ages of the images that the run was trained on, which `config.data` may filter."""
    from agegender.data.filters import LabelFilter
    from agegender.data.prepared import find_prepared, read_labels

    label_filter = LabelFilter(**{field.name: config.data[field.name] for field in dataclasses.fields(LabelFilter)})
    keys = {key for keys in label_filter.features().values() for key in keys}
    labels = read_labels(find_prepared(data_dir), config.train_split, [AGE, *keys])
    return labels[AGE][label_filter.matches(labels)]


def save_half_precision(model: "keras.Model", path: pathlib.Path) -> None:
    """Saves a model in Keras's format with every weight as float16; it loads as a float32 model."""
    import h5py

    model.save(path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    weights = io.BytesIO()
    with h5py.File(io.BytesIO(parts[_WEIGHTS])) as full, h5py.File(weights, "w") as half:

        def copy(name: str, item: Any) -> None:
            is_array = isinstance(item, h5py.Dataset)
            copied = (
                half.create_dataset(name, data=item[...].astype("float16")) if is_array else half.require_group(name)
            )
            copied.attrs.update(item.attrs)

        full.visititems(copy)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**parts, _WEIGHTS: weights.getvalue()}.items():
            archive.writestr(name, content)


def _describe_model(config: ConfigDict, epoch: str, start_share: float) -> dict[str, Any]:
    """What the card says of the run and of the weights that were taken from it."""
    weights = (
        f"the weights of {config.init_from}" if config.init_from else f"{config.trunk.weights or 'random'} weights"
    )
    architecture = (
        "the ResNet of dlib's face recogniser without its last block"
        if config.trunk.architecture == "dlib"
        else f"{config.trunk.architecture} of keras-vggface, {config.trunk.width:.3g} times as wide as published"
    )
    chosen_epoch = {
        "best": "the best epoch was chosen on the validation split",
        "last": "the last epoch was taken",
    }[epoch]
    if start_share:
        chosen_epoch += f", and mixed with {start_share:.0%} of the weights that training started from"
    return {
        "size": config.data.image_size,
        "heads": " and ".join(config.model.heads),
        "architecture": architecture,
        "weights": weights,
        "train_split": config.train_split,
        "chosen_epoch": chosen_epoch,
    }


def _list_commands(name: str, run: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    chosen = " ".join(word for word in run.get("command") or () if word.startswith("--config"))
    environment = "" if run["backend"] == "tensorflow" else f"KERAS_BACKEND={run['backend']} "
    given = "".join(f" --{option}={value}" for option, value in options.items() if value not in ("best", "", 0))
    return (
        f"{environment}python -m experiments.train {chosen} --workdir=runs/{name}\n"
        f"python -m experiments.release --workdir=runs/{name} --out=models/{name}{given}"
    )


def _write_card(
    name: str, facts: Mapping[str, Any], commands: str, report: "Report", data_dir: str | None, split: str
) -> str:
    from agegender.data.prepared import find_prepared

    info = find_prepared(data_dir).info
    counts = ", ".join(f"{each} {info.splits[each].num_examples:,}" for each in SPLITS)
    return _CARD.format(
        name=name,
        version=info.version,
        counts=counts,
        commands=commands,
        report=report,
        split=split,
        **facts,
    )


def main(_: list[str]) -> None:
    values = flags.FLAGS
    release(
        pathlib.Path(values.workdir),
        pathlib.Path(values.out),
        values.data_dir,
        epoch=values.epoch,
        start_share=values.start_share,
        age_head=values.age_head,
        prior_share=values.prior_share,
        age_tilt=values.age_tilt,
        calibration=pathlib.Path(values.calibration) if values.calibration else None,
        split=values.split,
    )


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
    flags.DEFINE_string("out", None, "Folder of the model to publish.", required=True)
    flags.DEFINE_string("data_dir", None, "Where `tfds build` wrote; by default ~/tensorflow_datasets.")
    flags.DEFINE_enum(
        "epoch", "best", ["best", "last"], "The epoch to publish: that with the smallest validation loss, or the last."
    )
    flags.DEFINE_float("start_share", 0.0, "Share of the weights that the run started from (init_from).", 0.0, 1.0)
    flags.DEFINE_string("age_head", "", "Another age head with the same weights: median for distribution.")
    flags.DEFINE_float("prior_share", 0.0, "Share of the training ages' distribution to take out.", 0.0, 1.0)
    flags.DEFINE_float("age_tilt", 0.0, "Multiply each age's probability by exp(-age_tilt * min(age, 60)).", -0.1, 0.1)
    flags.DEFINE_string("calibration", None, "Take the calibration of this folder instead of fitting one.")
    flags.DEFINE_string("split", "test", "The split of the card's numbers; 'validation' while you choose options.")
    command.run(main)
