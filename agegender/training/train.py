"""Trains the heads of a model and writes the run to `workdir`.

run.json       config, versions, commit, devices, command, seconds
metrics.csv    one row per epoch
curves.png     the same as curves
best.keras     the model of the epoch with the lowest validation loss
last.keras     the model of the last epoch
tensorboard/   the same numbers for `tensorboard --logdir`
checkpoints/   until the run is finished: its state, to resume from
"""

import contextlib
import numbers
import os
import pathlib
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import keras

from agegender.models.contract import ContractError
from agegender.models.losses import complete_loss_weights
from agegender.models.saving import check_model
from agegender.schema import EMBEDDING
from agegender.training import trunk_cache
from agegender.training.checkpoints import CheckpointPolicy
from agegender.training.data import (
    check_data,
    check_type,
    find_length,
    iterate_batches,
    repeat_checked_batches,
    skip_batches,
)
from agegender.training.learner import Learner, add_embedding_head, compile_learner, expose_distribution, make_learner
from agegender.training.optimizer import make_optimizer
from agegender.training.processes import device_count, process_count
from agegender.training.run import Run, check_workdir, run_training
from agegender.training.run_record import to_json
from agegender.training.stages import list_stages

_SET_LEARNING_RATE: Final = (keras.callbacks.ReduceLROnPlateau, keras.callbacks.LearningRateScheduler)


def train(
    model: keras.Model,
    data: Any,
    validation: Any = None,
    *,
    workdir: str | os.PathLike,
    epochs: int,
    steps_per_epoch: int | None = None,
    augmentation: keras.layers.Layer | None = None,
    optimizer: keras.optimizers.Optimizer | str | None = None,
    loss_weights: Mapping[str, float] | None = None,
    image_sizes: Sequence[tuple[int, int]] = (),
    cache_trunk: int = 0,
    checkpoints: CheckpointPolicy | None = None,
    run_info: Mapping[str, Any] | None = None,
    callbacks: Iterable[keras.callbacks.Callback] = (),
    verbose: int | str = "auto",
) -> keras.callbacks.History:
    """Trains all heads of a model together and writes models, metrics and curves to a folder.

    The same call with the same workdir resumes an interrupted run and ends with the weights of an uninterrupted one,
    bit for bit on a CPU. SIGTERM and Ctrl-C save a checkpoint and raise `SystemExit` with status 75. Between two calls,
    only `verbose`, `checkpoints` and `callbacks` may change; your own callbacks start anew.

    Args:
        model: from `build_model`. Trained in place; ends with the weights of the last epoch. The statistics of batch
            normalisation in the trunk are renewed at the end, on images without augmentation.
        data: batches of (images, targets) or (images, targets, sample_weight), as from
            `load_utkface(..., training=True)`: a `tf.data.Dataset`, a `keras.utils.PyDataset` or a generator. Images
            are uint8 in 0..255, targets a dict or a tuple in the order of the heads; see `agegender.models.contract`.
            If the targets of a `tf.data.Dataset` have the key "embedding", the trunk also learns to predict these
            numbers, through a head that the saved models do not have.
        validation: the same, finite, but no generator. Without it, the training loss decides which epoch is the best.
        workdir: folder of the run; created if it does not exist.
        epochs: number of epochs, 1 or more.
        steps_per_epoch: batches per epoch; by default one pass over the data.
        augmentation: layer applied to the images in training only, such as `Augmentation(seed=1)`.
        optimizer: a Keras optimizer or its name; by default `make_optimizer` for the length of the run.
        loss_weights: weight of each head's loss, such as `{"age": 1.0, "gender": 3.0}`; 1 by default.
        image_sizes: train at smaller sizes first: `[(8, 32), (4, 48)]` trains eight epochs at 32 px, four at 48 px and
            the rest at the size of the model. Images are resized after the augmentation. Small images are cheap and
            teach most of it (Tan and Le 2021, arXiv 2104.00298). The best epoch is one at full size.
        cache_trunk: precompute frozen-trunk features for the first K epochs, then replay them; later epochs see
            the same K augmented views of each image. 0 does not cache. See `agegender.training.trunk_cache`.
        checkpoints: when to write checkpoints and how many to keep; `CheckpointPolicy()` by default. They are removed
            when the run is finished.
        run_info: further entries of run.json. Its "config", a mapping, must not change when the run is resumed.
        callbacks: further Keras callbacks.
        verbose: as in Keras; "auto" shows a progress bar on a terminal and one line per epoch elsewhere.

    Returns:
        Keras's History of all epochs, such as `history.history["val_age_mae"][-1]`.

    Raises:
        ContractError: a ValueError, for data that break the contract; names the batch.
        ValueError: for arguments of the wrong type or out of range, weights that are not finite or convolutions that
            are all zero, `cache_trunk` without a frozen layer, and other settings than those of the run in the folder;
            names them.
        OSError: if the disk is full; the last checkpoint is kept.
        BlockingIOError: if another process trains in the folder.
        FileExistsError: if the folder contains a finished run, which stays as it is.
        FloatingPointError: if the loss or a weight is not finite; names the step. Earlier epochs are kept.
        agegender.training.signals.Stopped: a `SystemExit`, after a signal.

    Example:

    >>> from agegender import Predictor, load_utkface
    >>> model = Predictor("runs/1").model  # or `build_model(trunk)`
    >>> batches = load_utkface("train", batch_size=8, training=True, seed=1)
    >>> history = train(model, batches, workdir="runs/2", epochs=1, verbose=0)
    >>> sorted(history.history)
    ['age_loss', 'age_mae', 'gender_accuracy', 'gender_loss', 'loss']
    """
    if not os.fspath(workdir):
        raise ValueError("`workdir` must name a folder; '.' is the current one. Received: workdir=''")
    started, workdir = time.monotonic(), pathlib.Path(workdir)

    # Check the arguments before anything is written.
    _check_option("verbose", verbose, verbose in ("auto", 0, 1, 2), "'auto', 0, 1 or 2")
    verbosity = (1 if sys.stdout.isatty() else 2) if verbose == "auto" else int(verbose)
    is_layer = isinstance(augmentation, keras.layers.Layer | None)
    _check_option("augmentation", augmentation, is_layer, "a Keras layer or None")
    is_policy = isinstance(checkpoints, CheckpointPolicy | None)
    _check_option("checkpoints", checkpoints, is_policy, "a `CheckpointPolicy` or None")
    run_info = run_info or {}
    has_config = isinstance(run_info, Mapping) and isinstance(run_info.get("config", {}), Mapping)
    _check_option("run_info", run_info, has_config, 'a mapping, and its "config", if there is one, too')
    if isinstance(callbacks, Iterable):
        callbacks = list(callbacks)
    are_callbacks = isinstance(callbacks, list) and all(isinstance(c, keras.callbacks.Callback) for c in callbacks)
    _check_option("callbacks", callbacks, are_callbacks, "a list of Keras callbacks")
    check_model(model)
    check_type(data, "data")
    if validation is not None:
        check_type(validation, "validation")
    steps_per_epoch = _resolve_steps_per_epoch(data, steps_per_epoch, epochs)
    stages = list_stages(image_sizes, epochs, model.input_shape[1], cache_trunk)
    embedding_width = _find_embedding_width(data)
    _check_cache_trunk(cache_trunk, epochs, embedding_width)
    optimizer = keras.optimizers.get(optimizer or make_optimizer(steps=epochs * steps_per_epoch))
    _check_optimizer(optimizer, callbacks)
    if process_count() == 1:  # otherwise process 0 checks and broadcasts the result
        check_workdir(workdir)
    heads, size = list(model.output), model.input_shape[1]
    data = check_data(data, heads, size, "data", epochs=epochs, steps_per_epoch=steps_per_epoch)
    _check_batch_size(data)
    if validation is not None:
        validation = check_data(validation, heads, size, "validation")

    # Build and compile one learner per stage; all share their weights and the optimizer.
    full_model = expose_distribution(model)
    if embedding_width:
        full_model = add_embedding_head(full_model, embedding_width)
    frozen, rest = trunk_cache.split_model(full_model) if cache_trunk else (None, None)
    learners: list[keras.Model] = []
    for stage in stages:
        learner = (
            Learner(rest.input, rest.output)
            if rest
            else make_learner(full_model, augmentation=augmentation, image_size=stage.image_size)
        )
        # `compile` may wrap the optimizer for loss scaling; the other stages need the wrapped one.
        learners.append(compile_learner(learner, learners[0].optimizer if learners else optimizer, loss_weights))

    run = Run(
        model=model,
        data=data,
        validation=validation,
        stages=stages,
        learners=learners,
        steps_per_epoch=steps_per_epoch,
        workdir=workdir,
        settings=to_json(
            {
                "epochs": epochs,
                "steps_per_epoch": steps_per_epoch,
                "image_sizes": list(image_sizes),
                "cache_trunk": cache_trunk,
                "loss_weights": complete_loss_weights(list(full_model.output), loss_weights),
                "optimizer": _config_of(optimizer),
                "augmentation": augmentation and _config_of(augmentation),
                # The cache is made from this step on; without a cache, the step is part of the checkpoint.
                "augmentation_step": getattr(augmentation, "step", 0) if cache_trunk else 0,
                "backend": keras.backend.backend(),
                "dtype_policy": keras.config.dtype_policy().name,
                "outputs": {head: output.shape[-1] for head, output in full_model.output.items()},
                "parameters": model.count_params(),
                "config": run_info.get("config", {}),
            }
        ),
        run_info=run_info,
        checkpoints=checkpoints or CheckpointPolicy(),
    )
    inputs: contextlib.AbstractContextManager[tuple[Any, Any]] = contextlib.nullcontext((data, validation))
    if frozen is not None:
        inputs = _cache_features(run, frozen, augmentation, cache_trunk, verbosity)
    return run_training(run, inputs, started=started, callbacks=callbacks, verbose=verbosity)


@contextlib.contextmanager
def _cache_features(
    run: Run,
    frozen: keras.Model,
    augmentation: keras.layers.Layer | None,
    cached_epochs: int,
    verbose: int,
) -> Iterator[tuple[Any, Any]]:
    """Yields training and validation data as features, from a folder that exists while training runs."""
    steps, heads, size = run.steps_per_epoch, list(run.model.output), run.model.input_shape[1]
    folder = run.workdir / "trunk_cache"
    try:
        features = trunk_cache.cache_features(
            frozen,
            repeat_checked_batches(skip_batches(run.data, 0, steps), heads, size, "data"),
            folder / "train",
            steps_per_epoch=steps,
            cached_epochs=cached_epochs,
            epochs=run.stages[-1].end_epoch,
            augmentation=augmentation,
            verbose=verbose,
        )
        validation = run.validation
        if validation is not None:
            validation = trunk_cache.cache_features(
                frozen,
                repeat_checked_batches(validation, heads, size, "validation"),
                folder / "validation",
                steps_per_epoch=find_length(validation) or sum(1 for _ in iterate_batches(validation)),
                verbose=verbose,
            )
        yield features, validation
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _config_of(made: keras.optimizers.Optimizer | keras.layers.Layer) -> dict[str, Any]:
    """Class and config, without the name, which counts the instances in this process."""
    return {"class": type(made).__name__, **{key: value for key, value in made.get_config().items() if key != "name"}}


def _resolve_steps_per_epoch(data: Any, steps_per_epoch: int | None, epochs: int) -> int:
    _check_option("epochs", epochs, _is_positive_int(epochs), "a whole number, 1 or more")
    if steps_per_epoch is None:
        steps_per_epoch = getattr(data, "steps_per_epoch", None) or find_length(data)
    if steps_per_epoch is None:
        raise ValueError(
            f"`steps_per_epoch` must be given for data of unknown length. Received: a {type(data).__name__} as `data`"
        )
    is_count = _is_positive_int(steps_per_epoch)
    _check_option("steps_per_epoch", steps_per_epoch, is_count, "a whole number, 1 or more")
    return int(steps_per_epoch)


def _check_option(name: str, value: object, is_right: bool, expected: str) -> None:
    if not is_right:
        raise ValueError(f"`{name}` must be {expected}. Received: {name}={value!r}")


def _is_positive_int(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and int(value) >= 1


def _find_embedding_width(data: Any) -> int:
    """The width of the embeddings among the targets, or 0."""
    spec = getattr(data, "element_spec", None)
    targets = spec[1] if isinstance(spec, tuple) and len(spec) > 1 else None
    if not isinstance(targets, Mapping) or EMBEDDING not in targets:
        return 0
    embedding = targets[EMBEDDING]
    if len(embedding.shape) != 2 or not embedding.shape[1] or not embedding.dtype.is_floating:
        raise ContractError(f"embeddings must be floats of the shape [batch, width]. Received: {embedding}")
    return int(embedding.shape[1])


def _check_cache_trunk(cache_trunk: int, epochs: int, embedding_width: int) -> None:
    if cache_trunk and embedding_width:
        raise ValueError(
            "`cache_trunk` needs a frozen trunk, and `data` with embeddings one that learns. Leave out one of them. "
            f"Received: cache_trunk={cache_trunk}, embeddings of {embedding_width} numbers"
        )
    if isinstance(cache_trunk, bool) or not isinstance(cache_trunk, int) or not 0 <= cache_trunk <= epochs:
        raise ValueError(f"`cache_trunk` must be in 0..{epochs} epochs. Received: cache_trunk={cache_trunk!r}")
    devices = device_count()
    if devices > 1 and cache_trunk:
        raise ValueError(f"`cache_trunk` works on one device. Received: cache_trunk={cache_trunk}, {devices} devices")


def _check_optimizer(optimizer: keras.optimizers.Optimizer, callbacks: Sequence[keras.callbacks.Callback]) -> None:
    if optimizer.use_ema:
        raise ValueError(
            "`optimizer` must not average the weights: Keras would overwrite them at the end of each stage. "
            "Received: use_ema=True"
        )
    has_schedule = isinstance(optimizer.get_config()["learning_rate"], dict)
    for callback in callbacks:
        if has_schedule and isinstance(callback, _SET_LEARNING_RATE):
            raise ValueError(
                f"{type(callback).__name__} sets the learning rate, which needs an optimizer with a constant one: "
                "`optimizer=keras.optimizers.AdamW(3e-4)`. Received: an optimizer with a learning rate schedule, as "
                "`make_optimizer` makes by default"
            )


def _check_batch_size(data: Any) -> None:
    devices, spec = device_count(), getattr(data, "element_spec", None)
    rows = spec and spec[0].shape[0]
    if rows and rows % (devices // process_count()):
        raise ValueError(
            f"The batch size must be divisible by the number of devices, {devices}. Received: a batch size of "
            f"{rows * process_count()}"
        )
