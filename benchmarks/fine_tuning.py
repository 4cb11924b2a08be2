r"""Training the last block and the heads of VGG16, plain and with `cache_trunk`, against training all of it.

    python -m benchmarks.fine_tuning --data_dir=...

Steps through `fit`, as `train` runs them, in turn: of the whole model, of the last block and the heads, and of the same
on recorded features from a file on the disk. The features are recorded once, with augmentation, before the clock
starts; what that costs, a image, stands in the table. Random weights: they take the same time as any others.
"""

import pathlib
import tempfile
import time
from typing import Any

from benchmarks import steps, turns


def measure(
    data_dir: str | None,
    *,
    rounds: int = 2,
    image_size: int = 200,
    batch_size: int = 32,
    count: int = 1,
    times: int = 4,
) -> turns.Result:
    import keras

    import agegender as ag
    from agegender.training import learner, trunk_cache

    keras.config.set_dtype_policy(ag.fastest_dtype())
    load: dict[str, Any] = {"batch_size": batch_size, "image_size": image_size, "data_dir": data_dir}
    learners = {
        trainable: steps.compiled_learner(
            image_size=image_size, trainable=trainable, augmentation=ag.Augmentation(seed=1)
        )
        for trainable in ("all", "last_block")
    }
    trunk = ag.vggface_trunk("vgg16", image_size=image_size, weights=None, trainable="last_block", seed=1)
    frozen, rest = trunk_cache.split_model(ag.build_model(trunk))
    cached = learner.compile_learner(rest, ag.make_optimizer(steps=1000))
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        stream = ag.load_utkface("train", training=True, **load)
        recorded: dict[str, Any] = {
            "steps_per_epoch": count * times,
            "epochs": 1 + (rounds + 1) * 2,
            "augmentation": ag.Augmentation(seed=1),
        }
        replay = trunk_cache.cache_features(frozen, stream, folder, **recorded)
        recording = time.perf_counter() - start
        size = sum(path.stat().st_size for path in pathlib.Path(folder).iterdir())
        found: dict[str, list[float]] = {"all of it": [], "last block": [], "last block, recorded": []}
        for turn in range(rounds + 1):
            new = [
                steps.seconds_of_fit(learners[t], ag.load_utkface("train", training=True, **load), count)
                for t in learners
            ]
            new.append(steps.seconds_of_fit(cached, replay, count * times))
            for times_of, seconds in zip(found.values(), new, strict=True):
                times_of.extend([seconds] if turn else [])  # the first is the warm-up
    claims = [
        turns.Claim(f"all of it / {name}", turns.ratios(found, "all of it", name), at_least=mark)
        for name, mark in (("last block", 2.5), ("last block, recorded", 15.0))
    ]
    images = count * times * batch_size
    rows = [*turns.rows(found, count=batch_size), *turns.rows({"recording, once a view": [recording]}, count=images)]
    title = (
        f"VGG16, {image_size} px, batches of {batch_size}, {ag.fastest_dtype()}; {size / images / 1e3:.0f} KB a view"
    )
    return turns.Result(title, rows, claims)


if __name__ == "__main__":
    turns.main(measure)
