"""What the benchmarks of a training step share: the compiled model that `agegender.train` fits, and a batch."""

import itertools
import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from agegender.schema import HEADS

if TYPE_CHECKING:
    import keras


def make_learner(
    *,
    image_size: int,
    trainable: str | int = "all",
    heads: Sequence[str] = HEADS,
    augmentation: "keras.layers.Layer | None" = None,
    dtype: str | None = None,
) -> "keras.Model":
    """Builds VGG16 with heads from random weights and compiles it as `train` does.

    Args:
        image_size: pixels a side, 48 or more.
        trainable: which layers of the trunk train, as in `vggface_trunk`.
        heads: one or both of "age" and "gender".
        augmentation: layer before the model, or None.
        dtype: Keras dtype policy; None for the fastest one of the machine.

    Returns:
        A compiled model from uint8 images [batch, image_size, image_size, 3] to both heads.
    """
    import keras

    import agegender as ag
    from agegender.training import learner

    keras.config.set_dtype_policy(dtype or ag.fastest_dtype())
    trunk = ag.vggface_trunk("vgg16", image_size=image_size, weights=None, trainable=trainable, seed=1)
    model = ag.build_model(trunk, heads=heads)
    made = learner.make_learner(model, augmentation=augmentation)
    return learner.compile_learner(made, ag.make_optimizer(steps=1000))


def load_batch(data_dir: str | os.PathLike | None, *, batch_size: int, image_size: int) -> tuple[Any, dict[str, Any]]:
    """Reads the first training batch of a prepared data set into memory, as numpy arrays."""
    import agegender as ag

    dataset = ag.load_utkface("train", batch_size=batch_size, image_size=image_size, data_dir=data_dir, cache=None)
    images, targets = next(dataset.take(1).as_numpy_iterator())
    return images, targets


def draw_batch(*, batch_size: int, image_size: int) -> tuple[Any, dict[str, Any]]:
    """Draws a training batch of random pixels, as numpy arrays."""
    import numpy as np

    random = np.random.default_rng(1)
    images = random.integers(0, 256, (batch_size, image_size, image_size, 3), "uint8")
    ages, genders = random.uniform(0, 100, (batch_size, 1)), random.integers(0, 2, (batch_size, 1))
    return images, {"age": ages.astype("float32"), "gender": genders.astype("float32")}


def repeat(batch: tuple[Any, dict[str, Any]]) -> Any:
    """Repeats one batch for `fit`, so that nothing is read or decoded."""
    return (batch for _ in itertools.count())


def jit(augmentation: "keras.layers.Layer") -> Callable[[Any], Any]:
    """Compiles an augmentation on JAX; the function waits for its result."""
    import jax

    augmentation.build(None)
    state = [variable.value for variable in augmentation.non_trainable_variables]
    call = jax.jit(lambda images: augmentation.stateless_call([], state, images, training=True)[0])
    return lambda images: call(images).block_until_ready()


def time_fit(learner: "keras.Model", batches: Any, count: int) -> float:
    """Returns the seconds per step of `fit`, over `count` steps after a first one that is not timed."""
    import keras

    ends: list[float] = []

    def note(batch: int, logs: dict[str, Any]) -> None:
        float(logs["loss"])  # waits for the step
        ends.append(time.perf_counter())

    clock = keras.callbacks.LambdaCallback(on_train_batch_end=note)
    learner.fit(batches, steps_per_epoch=count + 1, shuffle=False, callbacks=[clock], verbose=0)
    return (ends[-1] - ends[0]) / count
