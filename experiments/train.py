r"""Trains, evaluates and predicts: one run from a prepared data set to its numbers.

    python -m experiments.train --config=experiments/configs/joint.py --workdir=runs/1

Flags say where, the config says what. Any field can be changed on the command line:

    python -m experiments.train --config=experiments/configs/joint_64.py --workdir=runs/2 \
        --config.epochs=4 --config.augmentation.erasing=0
"""

import dataclasses
import functools
import pathlib
import sys
from typing import TYPE_CHECKING, Any

from absl import app, flags, logging
from ml_collections import config_flags

from agegender.environment import set_environment
from agegender.schema import BEST_MODEL
from experiments import config as configs
from experiments.runs import build, calibrate_run, evaluate_run

if TYPE_CHECKING:
    import numpy as np

TRACED = 4  # steps: a trace of one on two cores has 10,000 events and more

_CONFIG = config_flags.DEFINE_config_file("config", None, "What to train: a file of experiments/configs.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for the models, numbers and curves of this run.", required=True)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where `tfds build` wrote; by default ~/tensorflow_datasets.")
_SPLIT = flags.DEFINE_string("split", "test", "What the trained model is measured on; 'validation' while choosing.")
_PROFILE = flags.DEFINE_bool("profile", False, "Trace a few steps in the middle of the first epoch for TensorBoard.")


def train_and_evaluate(
    config: configs.Config,
    workdir: pathlib.Path,
    data_dir: str | None = None,
    *,
    split: str = "test",
    profile: bool = False,
) -> None:
    """Trains what the config says, calibrates it on the validation split and reports on the test split.

    Args:
        config: what to train.
        workdir: folder of the run.
        data_dir: where `tfds build` wrote; by default TFDS's own folder.
        split: what to report on instead.
        profile: whether to trace up to `TRACED` steps in the middle of the first epoch.
    """
    set_environment()
    import keras

    import agegender as ag
    from agegender.devices import list_devices

    configs.validate(config)
    keras.utils.set_random_seed(config.seed)
    keras.config.set_dtype_policy(ag.fastest_dtype() if config.dtype == "auto" else config.dtype)
    print(f"Devices: {', '.join(list_devices())}; dtype: {keras.config.dtype_policy().name}")

    heads = configs.heads(config)
    load = functools.partial(
        ag.load_utkface, batch_size=config.batch_size, image_size=config.image_size, data_dir=data_dir
    )
    learned_from = functools.partial(load, f"train[:{config.limit}%]", heads=heads, conflicts=config.conflicts)
    train = learned_from(training=True, seed=config.seed, mixup=config.mixup)
    validation = load("validation", heads=heads)
    steps_per_epoch = config.steps_per_epoch or train.steps_per_epoch
    model = build(config)
    optimizer = ag.make_optimizer(
        steps=config.epochs * steps_per_epoch,
        learning_rate=config.learning_rate,
        warmup=config.warmup,
        weight_decay=config.weight_decay,
        clipnorm=config.clipnorm,
        ema=config.ema,
    )
    ag.train(
        model,
        train,
        validation,
        workdir=workdir,
        epochs=config.epochs,
        steps_per_epoch=steps_per_epoch,
        augmentation=ag.Augmentation(**dataclasses.asdict(config.augmentation), seed=config.seed),
        optimizer=optimizer,
        age_weight=config.age_weight,
        gender_weight=config.gender_weight,
        age_weights=_age_weights(learned_from(), config.age_density) if config.age_density else None,
        learned_weights=config.learned_weights,
        sizes=configs.sizes(config),
        cache_trunk=config.cache_trunk,
        record={"config": dataclasses.asdict(config)},
        profile=_middle(steps_per_epoch) if profile else None,
    )
    if profile:
        print(f"\nTrace: pip install xprof && tensorboard --logdir={workdir / 'tensorboard'}, then the tab Profile")

    try:
        calibrate_run(workdir, data_dir, flip=config.flip, batch_size=config.batch_size)
    except ValueError as error:  # a run on a handful of pictures still has an answer
        print(f"Not calibrated: {error}")
    print(f"\nThe best epoch on the {split} split:")
    evaluate_run(workdir, split, data_dir=data_dir, batch_size=config.batch_size)
    print(f"Model: {workdir / BEST_MODEL}\nCurves: {workdir / 'curves.png'}")


def _middle(steps: int) -> tuple[int, int]:
    """The first and the last of the steps to trace: not at the start, where graphs are built and buffers filled.

    >>> _middle(100), _middle(2), _middle(1)
    ((49, 52), (1, 2), (1, 1))
    """
    first = max(1, (steps - TRACED) // 2 + 1)
    return first, min(steps, first + TRACED - 1)


def _age_weights(dataset: Any, power: float) -> "np.ndarray":
    import numpy as np

    from agegender.losses import density_weights

    return density_weights(np.concatenate([targets["age"] for _, targets in dataset]), power=power)


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)  # TFDS tells of each file it opens
    try:
        train_and_evaluate(
            _CONFIG.value, pathlib.Path(_WORKDIR.value), _DATA_DIR.value, split=_SPLIT.value, profile=_PROFILE.value
        )
    except (OSError, ValueError, FloatingPointError) as error:
        sys.exit(f"{type(error).__name__}: {error}")  # the words say it all; a traceback would hide them


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)
