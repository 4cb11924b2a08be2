r"""The augmentation's share of the VGG16 training step.

    python -m benchmarks.augmentation_share --data_dir=...

The difference of a step with it and a step without is smaller than what either varies by, so the augmentation is timed
alone, many times over, and divided by the step without it of the same round. The steps with it are told beside that.
"""

from typing import Any

from benchmarks import steps, turns

WHOLE = ("all", "last_block")


def measure(
    data_dir: str | None, *, rounds: int = 7, image_size: int = 200, batch_size: int = 8, repeats: int = 10
) -> turns.Result:
    import agegender as ag

    images, targets = steps.first_batch(data_dir, batch_size=batch_size, image_size=image_size)
    augment = steps.compiled(ag.Augmentation(seed=1))
    contestants: dict[str, Any] = {"augmentation": lambda: [augment(images) for _ in range(repeats)]}
    for trainable in WHOLE:
        for name, augmentation in ((trainable, None), (f"{trainable}, augmented", ag.Augmentation(seed=1))):
            learner = steps.compiled_learner(image_size=image_size, trainable=trainable, augmentation=augmentation)
            contestants[name] = lambda learner=learner: learner.train_on_batch(images, targets)
    seconds = turns.in_turn(contestants, rounds=rounds)
    seconds["augmentation"] = [each / repeats for each in seconds["augmentation"]]
    claims = [
        turns.Claim(f"augmentation / step, {name}", turns.ratios(seconds, "augmentation", name), at_most=0.005)
        for name in WHOLE
    ]
    claims += [
        turns.Claim(f"step with / without it, {name}", turns.ratios(seconds, f"{name}, augmented", name))
        for name in WHOLE
    ]
    title = f"VGG16, {image_size} px, batches of {batch_size}, {learner.get_layer('agegender').layers[1].dtype_policy}"
    return turns.Result(title, turns.rows(seconds, count=batch_size), claims)


if __name__ == "__main__":
    turns.main(measure)
