r"""Trains a model as a config says, calibrates it, evaluates it, and draws predictions.

    python -m experiments.train --config=experiments/configs/joint.py --workdir=runs/1

Flags say where, the config says what. The command line changes any option of the config:

    python -m experiments.train --config=experiments/configs/joint.py --workdir=runs/2 \
        --config.train.epochs=4 --config.augmentation.erasing=0

All GPUs of one machine: --distribute=mirrored. Several processes, on one machine or many, on the JAX backend: run the
same command in each, with --coordinator=HOST:PORT --num_processes=N and its own --process_id from 0 to N - 1.

The same command resumes an interrupted run, also on another number of devices. Exit codes: 0 done, 1 error, 2 the run
is finished already, 75 stopped by a signal after saving a checkpoint (run it again), 130 Ctrl-C outside of training.
"""

import contextlib
import functools
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from absl import flags
from ml_collections import ConfigDict, config_flags

import agegender as ag
from agegender.schema import BEST_MODEL
from agegender.training.run_record import FINISHED, read_record, record_seconds, to_json
from experiments import command
from experiments.calibrate import calibrate_run
from experiments.evaluate import evaluate_and_print

if TYPE_CHECKING:
    import keras

    from agegender.training.checkpoints import CheckpointPolicy


def train_and_evaluate(
    config: ConfigDict,
    workdir: pathlib.Path,
    data_dir: str | None = None,
    *,
    split: str = "test",
    devices: contextlib.AbstractContextManager[Any] | None = None,
    checkpoints: "CheckpointPolicy | None" = None,
) -> None:
    """Trains, calibrates on the validation split, and evaluates on `split`; resumes an interrupted run.

    A run that was trained on the validation split, too, is not calibrated, and its best epoch is chosen on training
    images.

    Args:
        config: what to train, from a file of experiments/configs.
        workdir: folder of the run.
        data_dir: where `tfds build` wrote; None is TFDS's own folder.
        split: the split to report on.
        devices: from `use_devices`; by default one device.
        checkpoints: as in `agegender.train`.

    Raises:
        FileExistsError: if the folder contains a finished run with its report.
    """
    import keras

    from agegender.models.dtypes import list_devices
    from agegender.training.processes import broadcast_from_chief, is_chief

    # A missing data set or split must not fail after training.
    ag.load_utkface(split, batch_size=config.data.batch_size, data_dir=data_dir)
    with devices or contextlib.nullcontext():
        keras.utils.set_random_seed(config.seed)
        keras.config.set_dtype_policy(ag.fastest_dtype() if config.dtype == "auto" else config.dtype)
        print(f"Devices: {', '.join(list_devices())}; dtype: {keras.config.dtype_policy().name}")
        if not broadcast_from_chief(lambda: b"trained" if _is_trained(workdir, config) else b""):
            train(config, workdir, data_dir, checkpoints=checkpoints)
        chief = is_chief()
    if not chief:
        return
    started = time.monotonic()
    try:
        calibrate_run(workdir, data_dir, **config.calibration)
    except ValueError as error:  # a run on few images, or on the validation split, has a report, too
        print(f"Not calibrated: {error}")
    print(f"\nThe best epoch on the {split} split:")
    evaluate_and_print(workdir, split, data_dir=data_dir)
    record_seconds(workdir, "evaluation", time.monotonic() - started)
    print(f"Model: {workdir / BEST_MODEL}\nCurves: {workdir / 'curves.png'}")


def train(
    config: ConfigDict,
    workdir: pathlib.Path,
    data_dir: str | None = None,
    *,
    checkpoints: "CheckpointPolicy | None" = None,
) -> None:
    """Makes data, model and optimizer as the config says, and trains."""
    from agegender.data.prepared import name_undecodable_image
    from agegender.training.processes import current_shard

    # Also one process takes its shard, which is everything: the last validation batch is then filled up.
    load: Any = functools.partial(ag.load_utkface, data_dir=data_dir, shard=current_shard(), **config.data)
    data, validation = load(config.train_split, training=True), load("validation")
    steps_per_epoch = config.train.steps_per_epoch or data.steps_per_epoch
    with name_undecodable_image(data_dir, config.train_split, "validation"):
        ag.train(
            build_model(config),
            data,
            validation,
            workdir=workdir,
            augmentation=ag.Augmentation(**config.augmentation),
            optimizer=ag.make_optimizer(steps=config.train.epochs * steps_per_epoch, **config.optimizer),
            checkpoints=checkpoints,
            run_info={"config": config.to_dict(), "data_dir": data_dir and str(pathlib.Path(data_dir).resolve())},
            **config.train,
        )


def build_model(config: ConfigDict) -> "keras.Model":
    """Builds the model of a config, with the weights to start from."""
    from agegender.models.batch_norm import add_batch_norm
    from agegender.models.saving import load_model

    trunk = ag.vggface_trunk(**config.trunk)
    model = ag.build_model(add_batch_norm(trunk) if config.batch_norm else trunk, **config.model)
    if config.init_from:
        model.set_weights(load_model(config.init_from).get_weights())
    return model


@contextlib.contextmanager
def use_devices(*, mirrored: bool = False, processes: tuple[str, int, int] | None = None) -> Iterator[None]:
    """Trains on one device, on all devices of the machine, or as one of several processes.

    Args:
        mirrored: whether to use all devices of this machine.
        processes: the arguments of `agegender.training.processes.join_processes`.
    """
    import keras

    from agegender.training.processes import join_processes, leave_processes, use_data_parallel

    if mirrored and keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.distribute.MirroredStrategy().scope():
            yield
        return
    if processes:
        join_processes(*processes)
    elif mirrored:
        use_data_parallel()
    yield
    leave_processes()


def _is_trained(workdir: pathlib.Path, config: ConfigDict) -> bool:
    """Whether a run of this config is finished but for its report."""
    record = read_record(workdir) if workdir.is_dir() else {}
    is_same = record.get("config") == to_json(config.to_dict())
    return is_same and FINISHED in record and "evaluation" not in record.get("seconds", {})


def main(_: list[str]) -> None:
    from agegender.training.checkpoints import CheckpointPolicy
    from agegender.training.determinism import enable_determinism

    values = flags.FLAGS
    processes = (values.coordinator, values.num_processes, values.process_id)
    if any(each is not None for each in processes) and None in processes:
        raise ValueError(
            "--coordinator, --num_processes and --process_id go together. Received: --coordinator={} "
            "--num_processes={} --process_id={}".format(*processes)
        )
    if values.coordinator and values.distribute == "mirrored":
        raise ValueError("--distribute and --coordinator exclude each other: several processes use all their devices")
    if values.deterministic:
        enable_determinism()
    train_and_evaluate(
        values.config,
        pathlib.Path(values.workdir),
        values.data_dir,
        split=values.split,
        devices=use_devices(
            mirrored=values.distribute == "mirrored", processes=processes if values.coordinator else None
        ),
        checkpoints=CheckpointPolicy(seconds=values.save_seconds, keep=values.keep),
    )


def _define_flags() -> None:
    config_flags.DEFINE_config_file("config", None, "What to train: a file of experiments/configs.")
    flags.DEFINE_string("workdir", None, "Folder for the models, metrics and curves of this run.")
    flags.DEFINE_string("data_dir", None, "Where `tfds build` wrote; by default ~/tensorflow_datasets.")
    flags.DEFINE_string("split", "test", "The split to report on; 'validation' while you choose options.")
    flags.DEFINE_float("save_seconds", 300.0, "Seconds between two checkpoints, beside one an epoch.", lower_bound=0.1)
    flags.DEFINE_integer("keep", 2, "Number of checkpoints to keep until the run is finished.", lower_bound=1)
    flags.DEFINE_enum("distribute", "none", ["none", "mirrored"], "mirrored: train on all devices of this machine.")
    flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, if several processes train together.")
    flags.DEFINE_integer("num_processes", None, "Number of processes that train together.")
    flags.DEFINE_integer("process_id", None, "Number of this process, from 0; process 0 writes the files.")
    flags.DEFINE_bool("deterministic", False, "Make a GPU repeat its results bit for bit, which is slower.")
    flags.mark_flags_as_required(["config", "workdir"])
    flags.register_validator("workdir", bool, "must name a folder")


if __name__ == "__main__":
    _define_flags()
    # One of several processes must not wait at its exit for the others, which may wait for it.
    command.run(
        main,
        {FileExistsError: 2, KeyboardInterrupt: 130},
        exit_now=any(argument.startswith("--coordinator") for argument in sys.argv),
    )
