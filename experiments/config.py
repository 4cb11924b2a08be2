"""Every number that changes a result, as one typed dataclass; the files in configs/ change a few each.

ml_collections lets the command line override a field: `--config=experiments/configs/joint.py --config.epochs=3`. It
wants the annotations as real types and does not run `__post_init__` again, hence `validate`.
"""

import dataclasses
import math
from typing import Any, Final

from agegender.schema import IMAGE_SIZE


@dataclasses.dataclass
class AugmentationConfig:
    """Arguments of `agegender.Augmentation`; the defaults are the notebook's geometry."""

    rotation: float = 10.0
    width_shift: float = 0.2
    height_shift: float = 0.2
    shear: float = 0.2
    zoom: float = 0.2
    horizontal_flip: bool = True
    brightness: float = 0.1
    contrast: float = 0.1
    erasing: float = 0.25


@dataclasses.dataclass
class Config:
    """One run.

    Attributes:
        heads: "age", "gender" or both, separated by a comma.
        architecture: "vgg16", "resnet50" or "senet50".
        width: of VGG16's convolutions, as a share of the published number of filters; below 1 for random weights only.
        weights: "vggface", the path of such a file, or "none" for random ones.
        trainable: "all", "last_block", "none" or a number of last layers.
        dtype: a Keras dtype policy, or "auto" for the fastest one of the machine.
        cache_trunk: epochs of which the frozen part of the trunk is computed once and kept on the disk; 0 for none.
        warmup: share of the steps in which the learning rate rises.
        image_size: pixels a side.
        age_weight: of the age loss in the joint loss.
        gender_weight: of the gender loss.
        batch_size: images a step, of all devices together.
        epochs: number of them, those of `sizes` included.
        steps_per_epoch: batches an epoch; 0 is one pass over the training split.
        learning_rate: at its highest; AdamW, linear warm-up, then one cosine to 0.
        weight_decay: AdamW's.
        clipnorm: longest global norm of the gradients.
        start: folder of a run, whose last weights are those to begin with; empty to begin anew.
        batch_norm: train VGG16 with batch normalisation, for random weights; `fold_batch_norm` takes it out again.
        age_head: "regression", "distribution" or "median", see `agegender.build_model`.
        conflicts: whether to train on images whose copies carry another age or gender.
        flip: whether to average the answers on a image and its mirror image, when the run is evaluated.
        sizes: epochs at smaller sizes to begin with: "8x32,4x48" are eight at 32 px and four at 48 px.
        limit: percentage of the training split to use, to see what more images are worth.
        seed: of the weights, the order of the images and the augmentation.
        augmentation: see `AugmentationConfig`.
    """

    heads: str = "age,gender"
    architecture: str = "vgg16"
    width: float = 1.0
    image_size: int = IMAGE_SIZE
    weights: str = "vggface"
    trainable: str = "last_block"
    dtype: str = "auto"
    cache_trunk: int = 0
    age_weight: float = 1.0
    gender_weight: float = 1.0
    batch_size: int = 64
    epochs: int = 30
    steps_per_epoch: int = 0
    learning_rate: float = 3e-4
    warmup: float = 0.05
    weight_decay: float = 1e-4
    clipnorm: float = 1.0
    start: str = ""
    batch_norm: bool = False
    age_head: str = "regression"
    conflicts: bool = True
    flip: bool = False
    sizes: str = ""
    limit: int = 100
    seed: int = 1
    augmentation: AugmentationConfig = dataclasses.field(default_factory=AugmentationConfig)


_LEAST: Final = {"epochs": 1, "steps_per_epoch": 0, "seed": 0}


def validate(config: Config) -> None:
    """Checks what no function of the library checks itself, or only once a model is built.

    Raises:
        ValueError: naming the field.
    """
    _check_types(config)
    _check_types(config.augmentation)
    for name, least in _LEAST.items():
        if getattr(config, name) < least:
            raise ValueError(f"`{name}` must be {least} or more. Received: {name}={getattr(config, name)}")
    if not 1 <= config.limit <= 100:
        raise ValueError(f"`limit` must be in 1..100 per cent. Received: limit={config.limit}")


def _check_types(config: Any) -> None:
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        whole_for_float = field.type is float and type(value) is int
        if type(value) is not field.type and not whole_for_float:
            raise ValueError(f"`{field.name}` must be {_name(field.type)}. Received: {field.name}={value!r}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"`{field.name}` must be finite. Received: {field.name}={value}")


def _name(kind: Any) -> str:
    return {int: "a whole number", float: "a number", bool: "True or False", str: "text"}.get(kind, kind.__name__)


def heads(config: Config) -> tuple[str, ...]:
    """The heads as a tuple: ml_collections overrides a text more kindly than a list."""
    return tuple(head.strip() for head in config.heads.split(","))


def sizes(config: Config) -> list[tuple[int, int]]:
    """The pairs of epochs and pixels that `agegender.train` takes.

    >>> sizes(Config(sizes="8x32, 4x48"))
    [(8, 32), (4, 48)]
    """
    try:
        return [
            (int(epochs), int(size)) for epochs, size in (part.split("x") for part in config.sizes.split(",") if part)
        ]
    except ValueError:
        raise ValueError(
            f"`sizes` must be epochs and pixels, such as '8x32,4x48', or empty. Received: sizes={config.sizes!r}"
        ) from None
