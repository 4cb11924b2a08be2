r"""The training step fed by the input pipeline, against the same step on one batch that lies in memory.

    python -m benchmarks.feeding --data_dir=...
    python -m benchmarks.feeding --data_dir=... --image_size=64 --batch_size=32 --steps_per_fit=6

Both go through `fit`. The clock starts when the first step is done: before it the pipeline reads and shuffles the whole
split, once a run. Fewer layers trained leave the pipeline less time to hide in, so there are rows for both.
"""

import functools
from typing import Any

from benchmarks import steps, turns

WHOLE = ("all", "last_block")


def measure(
    data_dir: str | None, *, rounds: int = 4, image_size: int = 200, batch_size: int = 8, steps_per_fit: int = 2
) -> turns.Result:
    import agegender as ag

    fed = ag.load_utkface("train", batch_size=batch_size, training=True, image_size=image_size, data_dir=data_dir)
    batch = steps.first_batch(data_dir, batch_size=batch_size, image_size=image_size)
    in_memory = steps.repeated(batch)
    seconds: dict[str, list[float]] = {}

    def run(name: str, learner: Any, dataset: Any, count: int) -> None:
        seconds.setdefault(name, []).append(steps.seconds_of_fit(learner, dataset, count))

    contestants = {}
    for trainable, count in zip(WHOLE, (steps_per_fit, 2 * steps_per_fit), strict=True):
        learner = steps.compiled_learner(
            image_size=image_size, trainable=trainable, augmentation=ag.Augmentation(seed=1)
        )
        for name, dataset in (("fed", fed), ("in memory", in_memory)):
            contestants[f"{trainable}, {name}"] = functools.partial(
                run, f"{trainable}, {name}", learner, dataset, count
            )
    turns.in_turn(contestants, rounds=rounds)
    seconds = {name: times[1:] for name, times in seconds.items()}  # the first was the warm-up
    claims = [
        turns.Claim(
            f"fed / in memory, {name}", turns.ratios(seconds, f"{name}, fed", f"{name}, in memory"), at_most=1.03
        )
        for name in WHOLE
    ]
    title = f"VGG16 through `fit`, {image_size} px, batches of {batch_size}, cache of encoded bytes"
    return turns.Result(title, turns.rows(seconds, count=batch_size), claims)


if __name__ == "__main__":
    turns.main(measure)
