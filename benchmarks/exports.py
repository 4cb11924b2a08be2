r"""Compares the export formats with the `Predictor`: size, time per image, differences of the answers, errors.

    python -m benchmarks.exports --model=runs/1 --data_dir=... --split='test[:20%]'

Each format runs in its own runtime, on all cores. Times are those of a batch of uint8 images in memory; a ratio above 1
says that the format is faster. The int8 format takes its ranges from the train split.
"""

import os
import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks import timing

PREDICTOR = "Predictor"
INT8_IMAGES, CHUNK = 200, 64  # images for the ranges of int8; images a call where only the answers count
Answers = Mapping[str, Any]
Runner = Callable[[Any], Answers]


def measure(
    data_dir: str | None,
    *,
    model: str = "agegender/released/best.keras",
    split: str = "test",
    batch_size: int = 16,
    rounds: int = 5,
) -> timing.Result:
    """Exports a model to every format and runs each format on the split."""
    from agegender import Predictor
    from agegender.export import export

    predictor = Predictor(model, aligned=True)
    size, _ = predictor.image_size
    ranges = _load(data_dir, "train", size)[0][:INT8_IMAGES]
    images, targets = _load(data_dir, split, size)
    runners: dict[str, Runner] = {PREDICTOR: _run_predictor(predictor)}
    megabytes: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for format in export.FORMATS:
            path = pathlib.Path(folder, format)
            export.export_model(model, path, format=format, images=ranges if format.endswith("int8") else None)
            megabytes[format], runners[format] = _measure_size(path), _open(path, format)
        answers = {name: _answer(runner, images) for name, runner in runners.items()}
        seconds = {
            count: timing.time_in_turn(
                {name: lambda run=run, batch=images[:count]: run(batch) for name, run in runners.items()}, rounds=rounds
            )
            for count in (1, batch_size)
        }
    rows = []
    for name in runners:
        times = {f"ms, batch {count}": min(each[name]) * 1e3 / count for count, each in seconds.items()}
        errors = _compare(answers[name], answers[PREDICTOR], targets)
        rows.append({"what": name, "MB": megabytes.get(name), **times, **errors})
    ratios = [
        timing.Ratio(f"{PREDICTOR} / {name}, batch {count}", timing.divide(times, PREDICTOR, name))
        for count, times in seconds.items()
        for name in export.FORMATS
    ]
    return timing.Result(f"{model}: {len(images)} images of {size} px; the fastest call counts", rows, ratios)


def _load(data_dir: str | None, split: str, size: int) -> tuple[Any, Answers]:
    import numpy as np

    import agegender as ag

    dataset = ag.load_utkface(split, batch_size=CHUNK, image_size=size, data_dir=data_dir, cache=None)
    images, targets = zip(*dataset.as_numpy_iterator(), strict=True)
    heads = {head: np.concatenate([target[head] for target in targets]) for head in targets[0]}
    return np.concatenate(images), heads


def _run_predictor(predictor: Any) -> Runner:
    import numpy as np

    def run(images: Any) -> Answers:
        (faces,) = zip(*predictor(images), strict=True)
        return {"age": np.array([[face.age] for face in faces]), "gender": np.array([[f.p_female] for f in faces])}

    return run


def _open(path: pathlib.Path, format: str) -> Runner:
    if format == "saved_model":
        import tensorflow as tf

        serve = tf.saved_model.load(path).signatures["images"]
        return lambda images: {name: each.numpy() for name, each in serve(image=tf.constant(images)).items()}
    if format.startswith("onnx"):
        import onnxruntime

        session = onnxruntime.InferenceSession(path)
        names = [output.name for output in session.get_outputs()]
        return lambda images: dict(zip(names, session.run(None, {"image": images}), strict=True))
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(str(path), num_threads=os.cpu_count()).get_signature_runner()
    return lambda images: runner(image=images)


def _measure_size(path: pathlib.Path) -> float:
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return sum(file.stat().st_size for file in files) / 1e6


def _answer(runner: Runner, images: Any) -> Answers:
    import numpy as np

    parts = [runner(images[start : start + CHUNK]) for start in range(0, len(images), CHUNK)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _compare(answers: Answers, expected: Answers, targets: Answers) -> dict[str, float | None]:
    """Returns the largest differences from the Predictor, then the errors."""
    import numpy as np

    differences = {f"{head} off": float(np.abs(answers[head] - expected[head]).max()) for head in ("age", "gender")}
    error = float(np.abs(answers["age"] - targets["age"]).mean())
    accuracy = float(np.mean((answers["gender"] >= 0.5) == (targets["gender"] == 1)))
    return {**differences, "age MAE": error, "gender accuracy": accuracy}


if __name__ == "__main__":
    timing.main(measure)
