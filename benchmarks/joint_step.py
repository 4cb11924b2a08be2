r"""Compares one joint model with the notebook's two models: a training step and a prediction.

    python -m benchmarks.joint_step --data_dir=...

All are VGG16 with the last three layers and the heads trained, as in `experiments/configs/notebook_age.py` and
`notebook_gender.py`, with random weights, which take the same time as others. `--dtypes` compares the joint model in
the dtype that the library chooses for this machine with float32, all layers trained.
"""

from collections.abc import Callable, Sequence
from typing import Any

from agegender.schema import AGE, GENDER
from benchmarks import timing, training_step

TRAINABLE = 3  # layers of the notebook's trunk
JOINT, TWO = "joint model", "age model, then gender model"
HEADS: dict[str, Sequence[Sequence[str]]] = {JOINT: [[AGE, GENDER]], TWO: [[AGE], [GENDER]]}


def measure(
    data_dir: str | None, *, rounds: int = 3, image_size: int = 200, batch_size: int = 8, dtypes: bool = False
) -> timing.Result:
    import keras

    import agegender as ag

    batch = training_step.load_batch(data_dir, batch_size=batch_size, image_size=image_size)
    size: dict[str, Any] = {"image_size": image_size}
    if dtypes:
        one, other = ag.fastest_dtype(), "float32"
        learners = {dtype: [training_step.make_learner(dtype=dtype, **size)] for dtype in (one, other)}
    else:
        one, other = JOINT, TWO
        learners = {
            name: [training_step.make_learner(trainable=TRAINABLE, heads=heads, **size) for heads in models]
            for name, models in HEADS.items()
        }
    train, predict = ({name: call(each, batch) for name, each in learners.items()} for call in (_train, _predict))
    seconds = {"train": timing.time_in_turn(train, rounds=rounds)}
    seconds["predict"] = timing.time_in_turn(predict, rounds=rounds)
    rows = timing.make_rows(
        {f"{do}, {n}": t for do, each in seconds.items() for n, t in each.items()}, count=batch_size
    )
    target = None if dtypes else 0.52
    ratios = [
        timing.Ratio(f"{do}: {one} / {other}", timing.divide(each, one, other), at_most=target)
        for do, each in seconds.items()
        if one != other
    ]
    if not dtypes:
        joint, two = (sum(learner.count_params() for learner in learners[name]) for name in (JOINT, TWO))
        ratios.append(timing.Ratio(f"parameters: {JOINT} / {TWO}", [joint / two], at_most=target))
    title = f"VGG16, {image_size} px, batches of {batch_size}, {keras.config.dtype_policy().name}"
    return timing.Result(title, rows, ratios)


def _train(learners: Sequence[Any], batch: tuple[Any, dict[str, Any]]) -> Callable[[], None]:
    def call() -> None:
        for learner in learners:
            learner.train_on_batch(batch[0], {head: batch[1][head] for head in learner.output})

    return call


def _predict(learners: Sequence[Any], batch: tuple[Any, dict[str, Any]]) -> Callable[[], Any]:
    return lambda: [learner.predict_on_batch(batch[0]) for learner in learners]


if __name__ == "__main__":
    timing.main(measure)
