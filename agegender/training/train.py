"""Training: what is to be fitted, with which losses, on what; and what a run leaves in its folder.

run.json       config, versions, commit, devices, command: written before the first step
metrics.csv    a row an epoch        curves.png     the same as a image, drawn anew each epoch
last.keras     the newest epoch      best.keras     the epoch with the lowest validation loss
tensorboard/   the same numbers for `tensorboard --logdir`
checkpoints/   until the run is finished: its state, to go on from
"""

import contextlib
import functools
import os
import pathlib
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
from numpy.typing import ArrayLike

from agegender.models.losses import LearnedWeights
from agegender.training import trunk_cache
from agegender.training.checkpoints import Saving
from agegender.training.learner import compile_learner, make_learner, with_distribution
from agegender.training.optimizer import make_optimizer
from agegender.training.processes import device_count, process_count
from agegender.training.replicas import for_replicas, keep_first_batch, replica_count
from agegender.training.run import refuse_finished, run
from agegender.training.stages import list_stages
from agegender.training.stream import data_from


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
    saving: Saving | None = None,
    verbose: int | str = "auto",
) -> keras.callbacks.History:
    """Trains all heads of a model together and leaves models, numbers and curves in a folder.

    The same call in the same folder goes on where a run was interrupted, by a signal, an error or a power cut, and ends
    with the weights that it would have had: bit for bit on a CPU. All weights come from the folder then. SIGTERM and
    Ctrl-C save first and raise `SystemExit` with the status 75. Nothing may differ between two starts but `verbose`,
    `profile` and `saving`; `callbacks` of yours begin anew.

    Args:
        model: from `build_model`; its weights are changed in place and end as those of the last epoch, or
            their average where the optimizer keeps one.
        train: batches of (images, targets), as from `load_utkface(..., training=True)`.
        validation: the same, finite; without it the training loss chooses the best epoch.
        workdir: folder of the run, made if it is not there; if it holds the beginning of a run, that goes on.
        epochs: number of epochs, 1 or more.
        steps_per_epoch: batches an epoch; by default one pass over what `load_utkface` loaded.
        augmentation: layer put before the model in training only, such as `Augmentation(seed=1)`.
        optimizer: by default `make_optimizer` for the length of this run.
        age_weight: of the age loss, see `losses.joint_loss`.
        gender_weight: of the gender loss.
        age_weights: float [117], how much a image counts in the age loss, by its age; see `losses.density_weights`.
        learned_weights: whether to learn how much each head counts, see `losses.LearnedWeights`.
        sizes: pairs of a number of epochs and a size in pixels, with which training begins: `[(8, 32), (4, 48)]` are
            eight epochs at 32 px, then four at 48 px, and the rest at the size of the model. The images are reduced
            after their augmentation. Small images cost little and teach most of it (Tan and Le 2021, arXiv
            2104.00298); the best epoch is looked for among those at the full size.
        cache_trunk: K, the number of epochs of which the features of the trunk's frozen part are computed beforehand
            and kept on the disk, below `workdir`, until training ends; later epochs see these K views of each image
            again. 0 computes them anew in each epoch. `agegender.training.trunk_cache` says how.
        record: what else to write to run.json; its "config", a mapping, must be the same when the run goes on.
        callbacks: further Keras callbacks.
        profile: first and last step, of the first epoch and counted from 1, whose doings on host and device are traced
            into `tensorboard/`; on TensorFlow and JAX. `pip install xprof`, then `tensorboard --logdir` shows them.
        saving: when checkpoints are written, and how many stay, `checkpoints.Saving()` by default; they are removed
            when the run is finished.
        verbose: as in Keras; "auto" is a progress bar on a terminal and a line an epoch elsewhere.

    Returns:
        Keras's History, of all epochs: `history.history["val_age_mae"][-1]`.

    Raises:
        ValueError: for arguments out of range, for a cache of a trunk of which nothing is frozen, and for other
            settings than those that the run in the folder began with; names them.
        OSError: if the disk has too little room, or data are lost; the last checkpoint stays.
        BlockingIOError: if another process is training in the folder.
        FileExistsError: if the folder holds a finished run; nothing of it is touched.
        FloatingPointError: if the loss is not finite; names the step. The folder keeps the epochs before it.
        interruptions.Stopped: a `SystemExit`, after a signal.

    Example:

    >>> from agegender import Predictor, load_utkface
    >>> model = Predictor("runs/1").model  # or `build_model(trunk)`
    >>> batches = load_utkface("train", batch_size=8, training=True, seed=1)
    >>> history = train(model, batches, workdir="runs/2", epochs=1, verbose=0)
    >>> sorted(history.history)
    ['age_loss', 'age_mae', 'gender_accuracy', 'gender_loss', 'loss']
    """
    began = time.monotonic()
    if isinstance(cache_trunk, bool) or not isinstance(cache_trunk, int) or not 0 <= cache_trunk <= epochs:
        raise ValueError(f"`cache_trunk` must be in 0..{epochs} epochs. Received: cache_trunk={cache_trunk!r}")
    steps_per_epoch = _steps(train, steps_per_epoch, epochs)
    _check_profile(profile, steps_per_epoch)
    workdir = pathlib.Path(workdir)
    if process_count() == 1:  # else process 0 finds out, and tells the others
        refuse_finished(workdir)
    _check_targets(train, model)
    _check_devices(train, cache_trunk)
    stages = list_stages(sizes, epochs, model.input_shape[1], cache_trunk)
    optimizer = optimizer or make_optimizer(steps=epochs * steps_per_epoch)
    learned = LearnedWeights(list(model.output)) if learned_weights else None
    weights = {"age_weight": age_weight, "gender_weight": gender_weight, "age_weights": age_weights, "learned": learned}
    taught = with_distribution(model)
    if replica_count() > 1:
        taught = for_replicas(taught)
    frozen, rest = trunk_cache.split_model(taught) if cache_trunk else (None, None)
    learners: list[keras.Model] = []
    for stage in stages:
        learner = rest or make_learner(taught, augmentation=augmentation, size=stage.size, learned=learned)
        # The first compilation may put a loss scale around the optimizer, which all stages share.
        learners.append(compile_learner(learner, learners[0].optimizer if learners else optimizer, **weights))
        if replica_count() > 1:
            keep_first_batch(learner)
    settings = {
        "epochs": epochs,
        "steps_per_epoch": steps_per_epoch,
        "sizes": list(sizes),
        "cache_trunk": cache_trunk,
        "learned_weights": learned_weights,
        **{name: weights[name] for name in ("age_weight", "gender_weight", "age_weights")},
        "optimizer": _told(optimizer),
        "augmentation": augmentation and _told(augmentation),
        # Where epochs are recorded, that begins where the augmentation stands; elsewhere a checkpoint has its step.
        "augmentation_step": getattr(augmentation, "step", 0) if cache_trunk else 0,
        "backend": keras.backend.backend(),
        "dtype_policy": keras.config.dtype_policy().name,
        "outputs": {head: output.shape[-1] for head, output in taught.output.items()},
        "parameters": model.count_params(),
    }
    data: contextlib.AbstractContextManager[tuple[Any, Any]] = contextlib.nullcontext((train, validation))
    shown = (1 if sys.stdout.isatty() else 2) if verbose == "auto" else verbose
    if frozen is not None:
        views = {"records": cache_trunk, "epochs": epochs, "augmentation": augmentation}
        data = _recorded(frozen, train, validation, workdir, steps=steps_per_epoch, verbose=shown, **views)
    return run(
        model,
        learners,
        stages,
        data,
        workdir=workdir,
        steps_per_epoch=steps_per_epoch,
        settings={**settings, "config": (record or {}).get("config", {})},
        record=record,
        monitor="loss" if validation is None else "val_loss",
        averaged=bool(optimizer.use_ema),
        callbacks=callbacks,
        profile=profile,
        saving=saving or Saving(),
        verbose=shown,
        began=began,
    )


@contextlib.contextmanager
def _recorded(
    frozen: keras.Model, train: Any, validation: Any, workdir: pathlib.Path, *, steps: int, verbose: Any, **views: Any
) -> Iterator[tuple[Any, Any]]:
    """The data as features, from the folder where they are for the length of the training."""
    kept = functools.partial(trunk_cache.record, frozen, verbose=verbose)
    with trunk_cache.folder(workdir) as folder:
        features = kept(data_from(train, 0, steps), folder / "train", steps=steps, **views)
        if validation is not None:
            validation = kept(validation, folder / "validation", steps=len(validation))
        yield features, validation


def _told(made: keras.optimizers.Optimizer | keras.layers.Layer) -> dict[str, Any]:
    """With which arguments it was made; its name says no more than how many there are in this process."""
    return {"class": type(made).__name__, **{key: value for key, value in made.get_config().items() if key != "name"}}


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
    size, given = model.input_shape[1], spec and spec[0].shape[1]
    if given not in (None, size):
        raise ValueError(
            f"`train` must give images of the model's {size} pixels a side: `load_utkface(..., image_size={size})`. "
            f"Received: {given} pixels"
        )


def _check_devices(train: Any, cache_trunk: int) -> None:
    """Batches must be divisible, each device having as many images as the others."""
    devices = max(replica_count(), device_count())
    if devices > 1 and cache_trunk:
        raise ValueError(f"`cache_trunk` works on one device. Received: cache_trunk={cache_trunk}, {devices} devices")
    here, spec = devices // process_count(), getattr(train, "element_spec", None)
    rows = spec and spec[0].shape[0]
    if rows and rows % here:
        raise ValueError(
            f"The batch must be divisible by the {devices} devices that train. Received: {rows * process_count()} "
            "images a batch"
        )


def _length(dataset: Any) -> int | None:
    try:
        return len(dataset)
    except TypeError:  # a generator, or a tf.data.Dataset without an end
        return None
