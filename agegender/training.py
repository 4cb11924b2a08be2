"""Training: optimizer, schedule, Keras `fit`, and what a run leaves in its folder.

run.json       config, versions, devices, command: written before the first step
metrics.csv    a row an epoch        curves.png     the same as a picture, drawn anew each epoch
last.keras     the newest epoch      best.keras     the epoch with the lowest validation loss
tensorboard/   the same numbers for `tensorboard --logdir`
"""

import contextlib
import datetime
import functools
import importlib.metadata
import itertools
import json
import math
import os
import pathlib
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
from numpy.typing import ArrayLike

from agegender import devices, trunk_cache
from agegender.callbacks import LAST_MODEL, make_callbacks
from agegender.learner import compile_learner, make_learner, with_distribution
from agegender.losses import LearnedWeights
from agegender.schema import BEST_MODEL

_PACKAGES = ("keras", "tensorflow", "jax", "torch", "tensorflow-datasets", "keras-vggface", "numpy")


def make_optimizer(
    *,
    steps: int,
    learning_rate: float = 3e-4,
    warmup: float = 0.05,
    weight_decay: float = 1e-4,
    clipnorm: float = 1.0,
    ema: float = 0.0,
) -> keras.optimizers.Optimizer:
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) with a linear warm-up and one cosine down to zero.

    Args:
        steps: batches of the whole run, 1 or more.
        learning_rate: at its highest, above 0.
        warmup: share of the steps in which the learning rate rises from 0, in [0, 1).
        weight_decay: of kernels; biases and normalisations are not decayed.
        clipnorm: the longest gradient of all weights together; without normalisation layers a trunk with random
            weights can otherwise be lost to a single batch.
        ema: momentum, in [0, 1), of an exponential moving average of the weights, which `train` then measures and saves
            in their place (Polyak and Juditsky 1992; Tarvainen and Valpola 2017, arXiv 1703.01780); 0 for none.

    Returns:
        The optimizer, to be given to `train`.

    Raises:
        ValueError: for a number out of its range.
    """
    if steps < 1 or not 0 < learning_rate < math.inf or not 0 <= warmup < 1 or not 0 <= ema < 1:
        raise ValueError(
            "`steps` must be 1 or more, `learning_rate` above 0, `warmup` and `ema` in [0, 1). "
            f"Received: steps={steps}, learning_rate={learning_rate}, warmup={warmup}, ema={ema}"
        )
    rise = int(steps * warmup)
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0 if rise else learning_rate,
        warmup_target=learning_rate if rise else None,
        warmup_steps=rise,
        decay_steps=steps - rise,
    )
    optimizer = keras.optimizers.AdamW(
        schedule, weight_decay=weight_decay, global_clipnorm=clipnorm, use_ema=ema > 0, ema_momentum=ema
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def train(
    model: keras.Model,
    train: Any,
    validation: Any = None,
    *,
    workdir: str | os.PathLike,
    epochs: int,
    steps_per_epoch: int | None = None,
    augmentation: keras.layers.Layer | None = None,
    optimizer: keras.optimizers.Optimizer | None = None,
    age_weight: float = 1.0,
    gender_weight: float = 1.0,
    age_weights: ArrayLike | None = None,
    learned_weights: bool = False,
    sizes: Sequence[tuple[int, int]] = (),
    cache_trunk: int = 0,
    record: Mapping[str, Any] | None = None,
    callbacks: Iterable[keras.callbacks.Callback] = (),
    profile: tuple[int, int] | None = None,
    verbose: int | str = "auto",
) -> keras.callbacks.History:
    """Trains all heads of a model together and leaves models, numbers and curves in a folder.

    Args:
        model: from `build_model`; its weights are changed in place and end as those of the last epoch, or
            their average where the optimizer keeps one.
        train: batches of (pictures, targets), as from `load_utkface(..., training=True)`.
        validation: the same, finite; without it the training loss chooses the best epoch.
        workdir: folder of the run, made if it is not there; must not hold another run.
        epochs: number of epochs, 1 or more.
        steps_per_epoch: batches an epoch; by default one pass over what `load_utkface` loaded.
        augmentation: layer put before the model in training only, such as `Augmentation(seed=1)`.
        optimizer: by default `make_optimizer` for the length of this run.
        age_weight: of the age loss, see `losses.joint_loss`.
        gender_weight: of the gender loss.
        age_weights: float [117], how much a picture counts in the age loss, by its age; see `losses.density_weights`.
        learned_weights: whether to learn how much each head counts, see `losses.LearnedWeights`.
        sizes: pairs of a number of epochs and a size in pixels, with which training begins: `[(8, 32), (4, 48)]` are
            eight epochs at 32 px, then four at 48 px, and the rest at the size of the model. The pictures are reduced
            after their augmentation. Small pictures cost little and teach most of it (Tan and Le 2021, arXiv
            2104.00298); the best epoch is looked for among those at the full size.
        cache_trunk: K, the number of epochs of which the features of the trunk's frozen part are computed beforehand
            and kept on the disk, below `workdir`, until training ends; later epochs see these K views of each picture
            again. 0 computes them anew in each epoch. `agegender.trunk_cache` says how, and how much room it takes.
        record: what else to write to run.json, such as the config.
        callbacks: further Keras callbacks.
        profile: first and last step, of the first epoch and counted from 1, whose doings on host and device are traced
            into `tensorboard/`; on TensorFlow and JAX. `pip install xprof`, then `tensorboard --logdir` shows them.
        verbose: as in Keras; "auto" is a progress bar on a terminal and a line an epoch elsewhere.

    Returns:
        Keras's History: `history.history["val_age_mae"][-1]`.

    Raises:
        ValueError: for arguments out of range, and for a cache of a trunk of which nothing is frozen.
        OSError: if the disk has too little room for the cache.
        FileExistsError: if the folder holds a run; nothing of it is touched.
        FloatingPointError: if the loss is not finite; names the step. The folder keeps the epochs before it.

    Example: `train(model, batches, validation, workdir="runs/1", epochs=30, augmentation=Augmentation(seed=1))`
    """
    if isinstance(cache_trunk, bool) or not isinstance(cache_trunk, int) or not 0 <= cache_trunk <= epochs:
        raise ValueError(f"`cache_trunk` must be in 0..{epochs} epochs. Received: cache_trunk={cache_trunk!r}")
    steps_per_epoch = _steps(train, steps_per_epoch, epochs)
    _check_profile(profile, steps_per_epoch)
    workdir = pathlib.Path(workdir)
    if any((workdir / name).exists() for name in (BEST_MODEL, LAST_MODEL)):
        raise FileExistsError(f"{workdir} holds a trained model already. Choose another workdir, or move it away.")
    _check_targets(train, model)
    stages = _stages(sizes, epochs, model.input_shape[1], cache_trunk)
    optimizer = optimizer or make_optimizer(steps=epochs * steps_per_epoch)
    learned = LearnedWeights(list(model.output)) if learned_weights else None
    weights = {"age_weight": age_weight, "gender_weight": gender_weight, "age_weights": age_weights, "learned": learned}
    taught = with_distribution(model)
    frozen, rest = trunk_cache.split_model(taught) if cache_trunk else (None, None)
    learners: list[keras.Model] = []
    for stage in stages:
        learner = rest or make_learner(taught, augmentation=augmentation, size=stage.size, learned=learned)
        # The first compilation may put a loss scale around the optimizer, which all stages share.
        learners.append(compile_learner(learner, learners[0].optimizer if learners else optimizer, **weights))
    workdir.mkdir(parents=True, exist_ok=True)
    _write_record(workdir, model, record)
    options: dict[str, Any] = {
        "steps_per_epoch": steps_per_epoch,
        "shuffle": False,  # the dataset has shuffled already
        "verbose": (1 if sys.stdout.isatty() else 2) if verbose == "auto" else verbose,
    }
    with trunk_cache.folder(workdir) if cache_trunk else contextlib.nullcontext() as folder:
        if folder is not None:
            kept = functools.partial(trunk_cache.record, frozen, verbose=options["verbose"])
            views: dict[str, Any] = {"records": cache_trunk, "epochs": epochs, "augmentation": augmentation}
            train = kept(train, folder / "train", steps=steps_per_epoch, **views)
            if validation is not None:
                validation = kept(validation, folder / "validation", steps=len(validation))
        ours = make_callbacks(
            model,
            workdir,
            monitor="loss" if validation is None else "val_loss",
            full_size=stages[-1].first,
            averaged=bool(optimizer.use_ema),
            profile=profile,
        )
        return _fit(stages, learners, train, validation_data=validation, callbacks=[*ours, *callbacks], **options)


class _Stage(NamedTuple):
    """Epochs at one size of pictures."""

    first: int
    end: int
    size: int


def _stages(sizes: Sequence[tuple[int, int]], epochs: int, full: int, cache_trunk: int) -> list[_Stage]:
    """The epochs at small sizes, and the rest at the full one.

    >>> _stages([(8, 32)], 10, 64, 0)
    [_Stage(first=0, end=8, size=32), _Stage(first=8, end=10, size=64)]
    """
    if any(count < 1 or not 1 <= size <= full for count, size in sizes) or sum(count for count, _ in sizes) >= epochs:
        raise ValueError(
            f"`sizes` must be pairs of epochs, together less than the {epochs} of the run, and pixels in 1..{full}. "
            f"Received: sizes={list(sizes)}"
        )
    if sizes and cache_trunk:
        raise ValueError(f"`cache_trunk` keeps one size. Received: cache_trunk={cache_trunk}, sizes={list(sizes)}")
    ends = list(itertools.accumulate((count for count, _ in sizes), initial=0))
    return [*map(_Stage, ends, ends[1:], (size for _, size in sizes)), _Stage(ends[-1], epochs, full)]


def _fit(
    stages: Sequence[_Stage], learners: Sequence[keras.Model], train: Any, **options: Any
) -> keras.callbacks.History:
    whole: keras.callbacks.History | None = None
    for stage, learner in zip(stages, learners, strict=True):
        history = learner.fit(train, initial_epoch=stage.first, epochs=stage.end, **options)
        if whole is None:
            whole = history
        else:
            whole.epoch += history.epoch
            for name, values in history.history.items():
                whole.history[name] += values
    return whole


def _steps(train: Any, steps_per_epoch: int | None, epochs: int) -> int:
    if epochs < 1:
        raise ValueError(f"`epochs` must be 1 or more. Received: epochs={epochs}")
    if steps_per_epoch is None:
        steps_per_epoch = getattr(train, "steps_per_epoch", None) or _length(train)
    if steps_per_epoch is None or steps_per_epoch < 1:
        raise ValueError(f"`steps_per_epoch` must be 1 or more. Received: steps_per_epoch={steps_per_epoch}")
    return steps_per_epoch


def _check_profile(profile: tuple[int, int] | None, steps_per_epoch: int) -> None:
    if profile is None:
        return
    if not 1 <= profile[0] <= profile[1] <= steps_per_epoch:
        raise ValueError(
            f"`profile` must be a first and a last step in 1..{steps_per_epoch}. Received: profile={profile}"
        )
    if keras.backend.backend() not in ("tensorflow", "jax"):
        raise ValueError(f"`profile` works on TensorFlow and JAX. Received: the backend {keras.backend.backend()!r}")


def _check_targets(train: Any, model: keras.Model) -> None:
    spec = getattr(train, "element_spec", None)  # of a tf.data.Dataset
    if spec is not None and set(spec[1]) != set(model.output):
        raise ValueError(
            f"`train` must give targets for the heads of the model, {sorted(model.output)}; `load_utkface` takes "
            f"them as `heads`. Received targets: {sorted(spec[1])}"
        )


def _length(dataset: Any) -> int | None:
    try:
        return len(dataset)
    except TypeError:  # a generator, or a tf.data.Dataset without an end
        return None


def _write_record(workdir: pathlib.Path, model: keras.Model, record: Mapping[str, Any] | None) -> None:
    installed = {name: _version(name) for name in _PACKAGES}
    facts = {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "backend": keras.backend.backend(),
        "devices": devices.list_devices(),
        "dtype_policy": keras.config.dtype_policy().name,
        "parameters": model.count_params(),
        "versions": {"python": platform.python_version(), **{name: v for name, v in installed.items() if v}},
        **(record or {}),
    }
    (workdir / "run.json").write_text(json.dumps(facts, indent=2) + "\n")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
