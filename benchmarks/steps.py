"""What the benchmarks of a training step share: the compiled model that `agegender.train` fits, and a batch."""

import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from agegender.schema import HEADS

if TYPE_CHECKING:
    import keras


def compiled_learner(
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
        trainable: which layers of the trunk learn, as in `vggface_trunk`.
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
    # What is timed should be what `train` runs and not a likeness of it.
    made = learner.make_learner(model, augmentation=augmentation)
    return learner.compile_learner(made, ag.make_optimizer(steps=1000))


def first_batch(data_dir: str | os.PathLike | None, *, batch_size: int, image_size: int) -> tuple[Any, dict[str, Any]]:
    """Reads the first training batch of a prepared data set into memory, as numpy arrays."""
    import agegender as ag

    dataset = ag.load_utkface("train", batch_size=batch_size, image_size=image_size, data_dir=data_dir, cache=None)
    images, targets = next(dataset.take(1).as_numpy_iterator())
    return images, targets


def repeated(batch: tuple[Any, dict[str, Any]]) -> Any:
    """The same batch without end, for `fit`; nothing is read or decoded."""
    import tensorflow as tf

    return tf.data.Dataset.from_tensors(batch).repeat()


def compiled(augmentation: "keras.layers.Layer") -> Callable[[Any], Any]:
    """The augmentation alone, as the training step runs it: a function of images that waits for its result."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        augmentation.build(None)
        state = [variable.value for variable in augmentation.non_trainable_variables]
        call = jax.jit(lambda images: augmentation.stateless_call([], state, images, training=True)[0])
        return lambda images: call(images).block_until_ready()
    import tensorflow as tf

    call = tf.function(lambda images: augmentation(images, training=True))
    return lambda images: call(images)[0, 0, 0, 0].numpy()


def seconds_of_fit(learner: "keras.Model", batches: Any, count: int) -> float:
    """Seconds a step of `fit`, over `count` steps after a first one that is not timed."""
    import keras

    ends: list[float] = []

    def note(batch: int, logs: dict[str, Any]) -> None:
        float(logs["loss"])  # waits for the step, as `train` does to see whether the loss is finite
        ends.append(time.perf_counter())

    clock = keras.callbacks.LambdaCallback(on_train_batch_end=note)
    learner.fit(batches, steps_per_epoch=count + 1, shuffle=False, callbacks=[clock], verbose=0)
    return (ends[-1] - ends[0]) / count
