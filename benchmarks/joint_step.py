r"""One joint step and one joint prediction, against the notebook's two models one after the other; and their memory.

    python -m benchmarks.joint_step --data_dir=...

All three are VGG16 with the last three layers and the heads trained, as in `experiments/configs/notebook_age.py` and
`notebook_gender.py`, from random weights, because weights do not change the time.
"""

import concurrent.futures
import multiprocessing
import resource
from collections.abc import Sequence
from typing import Any

from agegender.schema import AGE, GENDER
from benchmarks import steps, turns
from experiments.configs import notebook_age

JOINT, TWO = "joint model", "age model, then gender model"
MODELS: dict[str, Sequence[Sequence[str]]] = {JOINT: [[AGE, GENDER]], TWO: [[AGE], [GENDER]]}


def measure(data_dir: str | None, *, rounds: int = 3, image_size: int = 200, batch_size: int = 8) -> turns.Result:
    import keras

    batch = steps.first_batch(data_dir, batch_size=batch_size, image_size=image_size)
    held = {name: _in_a_process_of_its_own(models, image_size, batch) for name, models in MODELS.items()}
    alone = _in_a_process_of_its_own(MODELS[TWO][:1], image_size, batch)[1]
    learners = {name: _learners(models, image_size) for name, models in MODELS.items()}
    train = {name: lambda name=name: _train(learners[name], batch) for name in MODELS}
    predict = {name: lambda name=name: [each.predict_on_batch(batch[0]) for each in learners[name]] for name in MODELS}
    trained, predicted = turns.in_turn(train, rounds=rounds), turns.in_turn(predict, rounds=rounds)
    facts = {
        name: {
            "parameters": sum(learner.count_params() for learner in learners[name]),
            "MB models": held[name][0],
            "MB peak": held[name][1],
        }
        for name in MODELS
    }
    rows = [
        {**train_row, "predict": predict_row["ms a image"], **facts[str(train_row["what"])]}
        for train_row, predict_row in zip(
            turns.rows(trained, count=batch_size), turns.rows(predicted, count=batch_size), strict=True
        )
    ]
    claims = [
        turns.Claim(f"{what}: joint / two", turns.ratios(seconds, JOINT, TWO), at_most=0.52)
        for what, seconds in (("training step", trained), ("prediction", predicted))
    ]
    claims += [
        turns.Claim(f"{what}: joint / two", [facts[JOINT][what] / facts[TWO][what]], at_most=0.52)
        for what in ("parameters", "MB models", "MB peak")
    ]
    apart = held[JOINT][1] / (2 * alone)  # two processes, a notebook each
    claims.append(turns.Claim("MB peak: joint / two in two processes", [apart], at_most=0.52))
    title = f"VGG16, the notebook's layers trained, {image_size} px, batches of {batch_size}, "
    return turns.Result(title + keras.config.dtype_policy().name, rows, claims)


def _learners(models: Sequence[Sequence[str]], image_size: int) -> list[Any]:
    trainable = int(notebook_age.get_config().trainable)
    return [steps.compiled_learner(image_size=image_size, trainable=trainable, heads=heads) for heads in models]


def _train(learners: Sequence[Any], batch: tuple[Any, dict[str, Any]]) -> None:
    for learner in learners:
        learner.train_on_batch(batch[0], {head: batch[1][head] for head in learner.output})


def _in_a_process_of_its_own(models: Sequence[Sequence[str]], image_size: int, batch: Any) -> tuple[float, float]:
    """What `_memory` says of the models where nothing else was before them."""
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(_memory, models, image_size, batch).result()


def _memory(models: Sequence[Sequence[str]], image_size: int, batch: Any) -> tuple[float, float]:
    """MB that the models take when built, and the peak over a training step and a prediction, above the imports."""
    import tensorflow as tf

    tf.zeros(1)  # what TensorFlow takes at its first operation
    before = turns.resident()
    learners = _learners(models, image_size)
    built = turns.resident() - before
    _train(learners, batch)
    for learner in learners:
        learner.predict_on_batch(batch[0])
    return built, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000 - before


if __name__ == "__main__":
    turns.main(measure)
