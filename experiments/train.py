r"""Trains, evaluates and predicts: one run from a prepared data set to its numbers.

    python -m experiments.train --config=experiments/configs/joint.py --workdir=runs/1

Flags say where, the config says what. Any field can be changed on the command line:

    python -m experiments.train --config=experiments/configs/joint.py --workdir=runs/2 \
        --config.epochs=4 --config.augmentation.erasing=0

Several GPUs of one machine: --distribute=mirrored. Several processes, on one machine or many, on the JAX backend: the
same command in each, with --coordinator=HOST:PORT --num_processes=N and its own --process_id from 0 to N - 1.

The same command goes on where it was interrupted, also on another number of devices. Exit status: 0 done, 1 an error, 2
the run is finished already, 75 stopped by a signal and saved: run it again, 130 stopped by Ctrl-C outside of training.
"""

import os
import pathlib
import sys
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from agegender.training.checkpoints import CheckpointPolicy
from agegender.training.signals import explain_errors
from experiments.one_run import train_and_evaluate

_CONFIG = config_flags.DEFINE_config_file("config", None, "What to train: a file of experiments/configs.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for the models, numbers and curves of this run.", required=True)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where `tfds build` wrote; by default ~/tensorflow_datasets.")
_SPLIT = flags.DEFINE_string("split", "test", "What the trained model is measured on; 'validation' while choosing.")
_SAVE_SECONDS = flags.DEFINE_float(
    "save_seconds", 300.0, "A checkpoint is written after so many seconds, and each epoch.", lower_bound=0.1
)
_KEEP = flags.DEFINE_integer("keep", 2, "Number of checkpoints that stay until the run is finished.", lower_bound=1)
_PROFILE = flags.DEFINE_bool("profile", False, "Trace a few steps in the middle of the first epoch for TensorBoard.")
_DISTRIBUTE = flags.DEFINE_enum("distribute", "none", ["none", "mirrored"], "mirrored: on all devices of the machine.")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, where several train together.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many there are.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this one is, from 0; process 0 writes the files.")
_DETERMINISTIC = flags.DEFINE_bool("deterministic", False, "The same weights bit for bit, on a GPU too; slower there.")


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)  # TFDS tells of each file it opens
    workdir = pathlib.Path(_WORKDIR.value)
    try:
        with explain_errors(lambda: f"The run is in {workdir}."):
            train_and_evaluate(
                _CONFIG.value,
                workdir,
                _DATA_DIR.value,
                split=_SPLIT.value,
                profile=_PROFILE.value,
                checkpoints=CheckpointPolicy(seconds=_SAVE_SECONDS.value, keep=_KEEP.value),
                mirrored=_DISTRIBUTE.value == "mirrored",
                processes=_processes(),
                deterministic=_DETERMINISTIC.value,
            )
    except FileExistsError as error:
        print(error, file=sys.stderr)
        _leave(2)
    except KeyboardInterrupt:
        print(f"Interrupted. What was saved before is in {workdir}; the same command goes on.", file=sys.stderr)
        _leave(130)
    except (OSError, ValueError, FloatingPointError, ImportError) as error:
        print(f"train: {error}", file=sys.stderr)  # the words say it all; a traceback would hide them
        _leave(1)


def _processes() -> tuple[str, int, int] | None:
    coordinator, count, index = _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
    if coordinator is None and count is None and index is None:
        return None
    if coordinator is None or count is None or index is None:
        raise ValueError(
            "--coordinator, --num_processes and --process_id go together. Received: "
            f"--coordinator={coordinator} --num_processes={count} --process_id={index}"
        )
    if _DISTRIBUTE.value != "none":
        raise ValueError("--distribute and --coordinator exclude each other: several processes use all their devices")
    return coordinator, count, index


def _leave(code: int) -> NoReturn:
    """With an error. One of several processes would wait at its end for the others, who may be waiting for it."""
    if _COORDINATOR.value is None:
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _parse(arguments: list[str]) -> list[str]:
    try:
        return flags.FLAGS(arguments)
    except (flags.Error, KeyError, OSError) as error:  # the last two of ml_collections: no such field, no such file
        print(f"train: {error.args[0] if isinstance(error, KeyError) else error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    flags.register_validator("workdir", bool, "must name a folder")
    app.run(main, flags_parser=_parse)
