"""The options of a training run, in groups: each group is passed whole to the function that it is named for.

The files in configs/ say what differs from the functions' own defaults; `--config.GROUP.OPTION=VALUE` on the command
line changes any option. The docstrings of the functions describe them:

    config.data          `agegender.load_utkface`
    config.trunk         `agegender.vggface_trunk`
    config.model         `agegender.build_model`
    config.augmentation  `agegender.Augmentation`
    config.optimizer     `agegender.make_optimizer`
    config.train         `agegender.train`
    config.calibration   `agegender.calibrate`
"""

import inspect
from collections.abc import Callable
from typing import Any, Final

from ml_collections import ConfigDict, FieldReference

_TYPED: Final = (bool, int, float, str)  # other options take any Python literal


def default_config() -> ConfigDict:
    """Every option with its default, locked: an unknown one is an error.

    `config.seed` stands for the seeds of all groups, `config.data.image_size` for the size in all groups, and
    `config.model.heads` for the targets in the data.
    """
    from agegender.environment import load_backend

    load_backend()
    import agegender as ag

    config = ConfigDict(
        {
            "seed": 1,
            "dtype": "auto",  # a Keras dtype policy, or "auto" for `agegender.fastest_dtype`
            "train_split": "train",  # or a slice of it, such as "train[:50%]"
            "batch_norm": False,  # whether to put batch normalization into the trunk, for random weights
            "init_from": "",  # a run or a .keras file with the weights to start from
            "data": _options(ag.load_utkface, given={"split", "training", "labels", "shard", "data_dir"}),
            "trunk": _options(ag.vggface_trunk),
            "model": _options(ag.build_model, given={"trunk"}),
            "augmentation": _options(ag.Augmentation.__init__),
            "optimizer": _options(ag.make_optimizer, given={"steps"}),
            "train": _options(ag.train, given=_GIVEN_TO_TRAIN),
            "calibration": _options(ag.calibrate, given={"targets", "outputs"}),
        }
    )
    for group in (config.data, config.trunk, config.augmentation):
        group.seed = config.get_ref("seed")
    config.trunk.image_size = config.data.get_ref("image_size")
    config.data.heads = config.model.get_ref("heads")
    return config.lock()


_GIVEN_TO_TRAIN: Final = {
    *("model", "data", "validation", "workdir", "augmentation", "optimizer"),
    *("checkpoints", "run_info", "callbacks", "verbose"),
}


def _options(function: Callable[..., Any], given: set[str] | frozenset[str] = frozenset()) -> dict[str, FieldReference]:
    """The arguments of a function with their defaults, but for those that the script gives."""
    parameters = inspect.signature(function).parameters.values()
    return {
        each.name: FieldReference(
            None if each.default is each.empty else each.default,
            field_type=each.annotation if each.annotation in _TYPED else object,
        )
        for each in parameters
        if each.name not in {"self", *given} and each.kind is not each.VAR_KEYWORD
    }
