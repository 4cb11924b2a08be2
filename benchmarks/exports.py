r"""What each export format costs: size, time a image, how far its answers are from the Predictor's, MAE and accuracy.

    python -m benchmarks.exports --workdir=runs/1 --data_dir=... --split='test[:20%]'
    python -m benchmarks.exports --image_size=200

The first exports the model of a run, with its calibration, lets each runtime answer the split, and compares with the
recorded labels and with the Predictor on the same images. The ranges of the int8 format are taken from the train
split. The second has no model to be right or wrong: it times an untrained VGG16 on drawn faces.

Times are those of the model alone, in turn in one process, one image at a time and in batches: Keras is the
Predictor's model, without its reading and resizing of images. LiteRT is given as many threads as there are cores.
Ratios are Keras over the format, so above 1 the format is faster.
"""

import os
import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks import turns

KERAS = "Keras"
CALIBRATED_ON = 200  # images for the ranges of int8
AT_ONCE = 64  # images a step, where the answers count and not the time
Answers = Mapping[str, Any]
Runner = Callable[[Any], Answers]


def measure(
    data_dir: str | None,
    *,
    workdir: str = "",
    split: str = "test",
    image_size: int = 64,
    batch_size: int = 16,
    rounds: int = 5,
) -> turns.Result:
    """Exports to every format, asks each in its own runtime, and times them in turn.

    Args:
        data_dir: where `tfds build` wrote.
        workdir: folder of the run; without one, an untrained VGG16.
        split: what the answers are measured on.
        image_size: pixels a side, of the untrained VGG16.
        batch_size: images a batch, of the timing.
        rounds: turns of each.
    """
    from agegender import Predictor
    from agegender.export import export

    model: Any = workdir or _untrained(image_size)
    predictor = Predictor(model, aligned=True)
    size = predictor.model.input_shape[1]
    seen, images, targets = _drawn(size) if not workdir else _real(data_dir, split, size)
    runners: dict[str, Runner] = {KERAS: _keras(predictor)}
    sizes: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for format in export.FORMATS:
            path = pathlib.Path(folder) / format
            export.export_model(model, path, format=format, images=seen if format.endswith("int8") else None)
            sizes[format], runners[format] = _megabytes(path), _open(path, format)
        answers = {name: _answers(runner, images) for name, runner in runners.items()}
        seconds = {count: _timed(runners, images[:count], rounds) for count in (1, batch_size)}
    rows = []
    for name in runners:
        times = {f"ms, {count}": min(each[name]) * 1e3 / count for count, each in seconds.items()}
        errors = _errors(answers[name], answers[KERAS], targets)
        rows.append({"what": name, "MB": sizes.get(name), **times, **errors})
    claims = [
        turns.Claim(f"{KERAS} / {name}, {count} at once", turns.ratios(times, KERAS, name))
        for count, times in seconds.items()
        for name in export.FORMATS
    ]
    what = f"{pathlib.Path(workdir).name}, {split}" if workdir else "untrained VGG16, drawn faces"
    flip = ", mean over mirror images" if predictor.flip else ""
    title = f"{what}: {len(images)} images of {size} px{flip}; milliseconds are the fastest turn's"
    return turns.Result(title, rows, claims)


def _untrained(size: int) -> Any:
    """A VGG16 with random weights, in the last layers of the heads too: those of an untrained model are zero."""
    import keras

    import agegender as ag

    keras.utils.set_random_seed(0)
    model = ag.build_model(ag.vggface_trunk("vgg16", image_size=size, weights=None, trainable="all", seed=0))
    for name in ("age_deviations", "gender"):
        kernel, bias = model.get_layer(name).get_weights()
        model.get_layer(name).set_weights([keras.random.normal(kernel.shape, stddev=0.1, seed=1), bias])
    return model


def _drawn(size: int) -> tuple[Any, Any, None]:
    import numpy as np

    from agegender import draw_face

    faces = [draw_face(i % 90, i % 2, i % 5, seed=i, size=size) for i in range(CALIBRATED_ON + AT_ONCE)]
    return np.stack(faces[:CALIBRATED_ON]), np.stack(faces[CALIBRATED_ON:]), None


def _real(data_dir: str | None, split: str, size: int) -> tuple[Any, Any, Answers]:
    import numpy as np

    import agegender as ag

    def load(split: str, count: int | None = None) -> tuple[Any, Answers]:
        dataset = ag.load_utkface(split, batch_size=AT_ONCE, image_size=size, data_dir=data_dir)
        taken = dataset if count is None else dataset.take(-(-count // AT_ONCE))
        images, targets = zip(*((np.asarray(one), other) for one, other in taken), strict=True)
        return np.concatenate(images), {
            head: np.concatenate([np.asarray(each[head]) for each in targets]) for head in ("age", "gender")
        }

    return load("train", CALIBRATED_ON)[0], *load(split)


def _keras(predictor: Any) -> Runner:
    """What the Predictor does with a batch, flip and calibration with it, without making faces of the numbers."""
    from agegender.schema import AGE, GENDER

    def answer(images: Any) -> Answers:
        guesses = predictor._guess_batch(images)
        ages, genders, _ = zip(*guesses, strict=True)
        return {head: _column(values) for head, values in ((AGE, ages), (GENDER, genders)) if values[0] is not None}

    return answer


def _column(values: Any) -> Any:
    import numpy as np

    return np.array(values)[:, None]


def _open(path: pathlib.Path, format: str) -> Runner:
    if format == "saved_model":
        import tensorflow as tf

        loaded = tf.saved_model.load(path)
        return lambda images: {
            name: values.numpy() for name, values in loaded.signatures["images"](image=tf.constant(images)).items()
        }
    if format.startswith("onnx"):
        import onnxruntime

        session = onnxruntime.InferenceSession(path)
        names = [output.name for output in session.get_outputs()]
        return lambda images: dict(zip(names, session.run(None, {"image": images}), strict=True))
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(str(path), num_threads=os.cpu_count()).get_signature_runner()
    return lambda images: runner(image=images)


def _megabytes(path: pathlib.Path) -> float:
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return sum(file.stat().st_size for file in files) / 1e6


def _answers(runner: Runner, images: Any) -> Answers:
    import numpy as np

    parts = [runner(images[start : start + AT_ONCE]) for start in range(0, len(images), AT_ONCE)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _timed(runners: Mapping[str, Runner], images: Any, rounds: int) -> dict[str, list[float]]:
    return turns.in_turn(
        {name: lambda runner=runner: runner(images) for name, runner in runners.items()}, rounds=rounds
    )


def _errors(answers: Answers, asked: Answers, targets: Answers | None) -> dict[str, float | None]:
    """Largest differences from the Predictor, then what is wrong, as far as there are heads and labels."""
    import numpy as np

    errors: dict[str, float | None] = {
        f"{head} off": float(np.abs(answers[head] - asked[head]).max()) for head in asked
    }
    if targets is not None and "age" in asked:
        errors["MAE"] = float(np.abs(answers["age"] - targets["age"]).mean())
    if targets is not None and "gender" in asked:
        errors["accuracy"] = float(np.mean((answers["gender"] >= 0.5) == (targets["gender"] == 1)))
    return errors


if __name__ == "__main__":
    turns.main(measure)
