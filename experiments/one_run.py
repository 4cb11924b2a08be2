"""One run: a config trained, calibrated and reported on. Without flags, for `experiments.train` and the tests."""

import contextlib
import dataclasses
import functools
import pathlib
import time
from collections.abc import Iterator

from agegender.environment import set_environment
from agegender.schema import BEST_MODEL
from agegender.training.checkpoints import CheckpointPolicy
from agegender.training.run_record import FINISHED, read_record, record_seconds, to_json
from experiments import config as configs
from experiments.runs import build, calibrate_run, evaluate_run

TRACED = 4  # steps: a trace of one on two cores has 10,000 events and more


def train_and_evaluate(
    config: configs.Config,
    workdir: pathlib.Path,
    data_dir: str | None = None,
    *,
    split: str = "test",
    profile: bool = False,
    checkpoints: CheckpointPolicy | None = None,
    mirrored: bool = False,
    processes: tuple[str, int, int] | None = None,
    deterministic: bool = False,
) -> None:
    """Trains what the config says, calibrates it on the validation split and reports on the test split.

    Goes on where it was interrupted, in training or after.

    Args:
        config: what to train.
        workdir: folder of the run.
        data_dir: where `tfds build` wrote; by default TFDS's own folder.
        split: what to report on instead.
        profile: whether to trace up to `TRACED` steps in the middle of the first epoch.
        checkpoints: when to write checkpoints and how many to keep.
        mirrored: whether to train on all devices of this machine.
        processes: where several train together, the arguments of `processes.join`. Process 0 evaluates.
        deterministic: whether a GPU is to give the same bits each time; a CPU does anyway.

    Raises:
        FileExistsError: if the folder holds a finished run with its report, or a finished run of another config.
    """
    set_environment()
    import keras

    import agegender as ag
    from agegender.models.dtypes import list_devices
    from agegender.training.determinism import enable_determinism
    from agegender.training.processes import broadcast_from_chief, is_chief

    configs.validate(config)
    ag.load_utkface(split, batch_size=1, data_dir=data_dir)  # what is wrong with it is better said before the training
    if deterministic:
        enable_determinism()
    with _on_devices(mirrored, processes):
        keras.utils.set_random_seed(config.seed)
        keras.config.set_dtype_policy(ag.fastest_dtype() if config.dtype == "auto" else config.dtype)
        print(f"Devices: {', '.join(list_devices())}; dtype: {keras.config.dtype_policy().name}")
        if not broadcast_from_chief(lambda: b"trained" if _is_trained(workdir, config) else b""):
            _train(config, workdir, data_dir, profile=profile, checkpoints=checkpoints)
        chief = is_chief()
    if not chief:
        return
    began = time.monotonic()
    try:
        calibrate_run(workdir, data_dir, flip=config.flip, batch_size=config.batch_size)
    except ValueError as error:  # a run on a handful of images still has an answer
        print(f"Not calibrated: {error}")
    print(f"\nThe best epoch on the {split} split:")
    evaluate_run(workdir, split, data_dir=data_dir, batch_size=config.batch_size)
    record_seconds(workdir, "evaluation", time.monotonic() - began)
    print(f"Model: {workdir / BEST_MODEL}\nCurves: {workdir / 'curves.png'}")


@contextlib.contextmanager
def _on_devices(mirrored: bool, processes: tuple[str, int, int] | None) -> Iterator[None]:
    import keras

    from agegender.training.processes import join_processes, leave_processes, use_data_parallel

    if processes:
        join_processes(*processes)
    elif mirrored and keras.backend.backend() == "jax":
        use_data_parallel()
    elif mirrored:
        import tensorflow as tf

        with tf.distribute.MirroredStrategy().scope():
            yield
        return
    yield
    leave_processes()


def _is_trained(workdir: pathlib.Path, config: configs.Config) -> bool:
    """Whether a run of this config lacks nothing but its report."""
    record = read_record(workdir) if workdir.is_dir() else {}
    same = record.get("config") == to_json(dataclasses.asdict(config))
    return same and FINISHED in record and "evaluation" not in record.get("seconds", {})


def _train(
    config: configs.Config,
    workdir: pathlib.Path,
    data_dir: str | None,
    *,
    profile: bool,
    checkpoints: CheckpointPolicy | None,
) -> None:
    import agegender as ag
    from agegender.training import processes

    heads = configs.heads(config)
    load = functools.partial(
        ag.load_utkface, batch_size=config.batch_size, image_size=config.image_size, data_dir=data_dir
    )
    learned_from = functools.partial(load, f"train[:{config.limit}%]", heads=heads, conflicts=config.conflicts)
    # Also of one process: in a short last batch, Keras weighs the losses of the heads wrongly on TensorFlow, and some
    # replica may be left without a image.
    shard = processes.current_shard()
    train = learned_from(training=True, seed=config.seed, shard=shard)
    validation = load("validation", heads=heads, shard=shard)
    steps_per_epoch = config.steps_per_epoch or train.steps_per_epoch
    model = build(config)
    optimizer = ag.make_optimizer(
        steps=config.epochs * steps_per_epoch,
        learning_rate=config.learning_rate,
        warmup=config.warmup,
        weight_decay=config.weight_decay,
        clipnorm=config.clipnorm,
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
        loss_weights={head: getattr(config, f"{head}_weight") for head in heads},
        image_sizes=configs.sizes(config),
        cache_trunk=config.cache_trunk,
        run_info={"config": dataclasses.asdict(config)},
        profile=_middle(steps_per_epoch) if profile else None,
        checkpoints=checkpoints,
    )
    if profile:
        print(f"\nTrace: pip install xprof && tensorboard --logdir={workdir / 'tensorboard'}, then the tab Profile")


def _middle(steps: int) -> tuple[int, int]:
    """The first and the last of the steps to trace: not at the start, where graphs are built and buffers filled.

    >>> _middle(100), _middle(2), _middle(1)
    ((49, 52), (1, 2), (1, 1))
    """
    first = max(1, (steps - TRACED) // 2 + 1)
    return first, min(steps, first + TRACED - 1)
