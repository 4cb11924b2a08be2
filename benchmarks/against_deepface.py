r"""Photographs of mixed sizes end to end, or aligned faces alone: agegender against deepface, in turn in one run.

    python -m venv /tmp/deepface
    /tmp/deepface/bin/pip install . deepface==0.0.103 mtcnn==1.0.0 tensorflow tf-keras werkzeug
    /tmp/deepface/bin/pip uninstall -y opencv-contrib-python-headless   # version 5 lacks the detector's files
    /tmp/deepface/bin/pip install 'opencv-contrib-python-headless<5'
    /tmp/deepface/bin/python -m benchmarks.against_deepface --images=FOLDER
    python -m benchmarks.against_deepface --write=runs/vgg16   # needs '.[export]'
    /tmp/deepface/bin/python -m benchmarks.against_deepface --models=runs/vgg16

deepface analyzes age and gender with its opencv and its mtcnn detector. Its models have random weights, which take the
same time as its own; those need a network. Photographs are mosaics of a folder's images, of three sizes in turn.
`--models` compares a whole VGG16 with two heads at 200 px, in float32, in the fastest dtype of Keras and in int8, with
deepface's two models. Run it with nothing beside it.
"""

import argparse
import functools
import os
import pathlib
import tempfile
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from benchmarks.inference import describe, make_photograph, measure_in_turn

SIZES: Final = ((640, 480), (800, 600), (1600, 1200))
DETECTORS: Final = ("opencv", "mtcnn")
FACES: Final = 16  # aligned faces in a batch
MODELS: Final = ("model.onnx", "best.keras", "model-int8.onnx")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--images", type=pathlib.Path, help="folder of photographs to make the mosaics of (drawn people)"
    )
    parser.add_argument("--photographs", type=int, default=12, help="(12)")
    parser.add_argument("--rounds", type=int, default=1, help="(1)")
    parser.add_argument("--write", type=pathlib.Path, metavar="FOLDER", help="only write VGG16 models for --models")
    parser.add_argument("--models", type=pathlib.Path, metavar="FOLDER", help="compare aligned faces instead")
    parser.add_argument("--dtype", help="of the Predictor: float32, int8 or auto (as the model was saved)")
    args = parser.parse_args(arguments)
    if args.write:
        write_models(args.write)
    elif args.models:
        compare_models(load_deepface(), args.models, args.rounds)
    else:
        compare_photographs(load_deepface(), args)


def compare_photographs(deepface: Any, args: argparse.Namespace) -> None:
    """Times photographs from files to answers."""
    import agegender as ag

    predictor = ag.Predictor(dtype=args.dtype)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(args.photographs):
            photograph = make_photograph(SIZES[number % len(SIZES)], args.images)
            pathlib.Path(folder, f"{number:04}.jpg").write_bytes(photograph)
        paths = sorted(map(str, pathlib.Path(folder).iterdir()))
        found = dict.fromkeys(["agegender", *(f"deepface, {detector}" for detector in DETECTORS)], 0)

        def predict() -> None:
            found["agegender"] = sum(
                len(each) for each in predictor.stream(folder) if not isinstance(each, ag.ImageError)
            )

        def analyze(detector: str, paths: Sequence[str] = paths) -> None:
            answers = [analyze_one(deepface, path, detector) for path in paths]
            found[f"deepface, {detector}"] = sum(each["face_confidence"] > 0 for faces in answers for each in faces)

        for detector in DETECTORS:  # loads its models
            analyze(detector, paths[:1])
        predictor(paths[0])
        runs = [predict, *(lambda detector=detector: analyze(detector) for detector in DETECTORS)]
        ours, *theirs = measure_in_turn(runs, args.rounds, warm_up=False)
    print(f"{args.photographs} photographs, {os.cpu_count()} cores, {predictor.dtype}")
    for name, seconds in zip(found, (ours, *theirs), strict=True):
        clock, cpu = (each / args.photographs for each in seconds)
        print(f"{name}: {describe((clock, cpu))} a photograph, {found[name]} faces")
    for detector, seconds in zip(DETECTORS, theirs, strict=True):
        clock, cpu = (there / here for there, here in zip(seconds, ours, strict=True))
        print(f"agegender is {clock:.1f} times as fast as deepface with {detector}; CPU {cpu:.1f}")


def write_models(folder: pathlib.Path) -> None:
    """Writes VGG16 at 200 px with random weights and two heads, as the files of `MODELS`."""
    import agegender as ag

    folder.mkdir(parents=True, exist_ok=True)
    model = ag.build_model(ag.vggface_trunk("vgg16", image_size=200, weights=None))
    onnx, trained, int8 = (folder / name for name in MODELS)
    model.save(trained)
    ag.export_model(model, onnx, format="onnx", flip=False)
    faces = [ag.draw_face(age, age % 2, age % 5, size=200, seed=age) for age in range(100)]
    ag.export_model(model, int8, format="onnx_int8", flip=False, images=faces)


def compare_models(deepface: Any, folder: pathlib.Path, rounds: int) -> None:
    """Times aligned faces, in a batch, against deepface's models for age and for gender."""
    from agegender.inference.face_model import load_face_model

    models = [load_face_model(folder / name, "auto")[0] for name in MODELS]
    faces = np.random.default_rng(0).integers(0, 256, (FACES, 200, 200, 3), dtype="uint8")
    theirs = [deepface.build_model(task="facial_attribute", model_name=name) for name in ("Age", "Gender")]
    resized = np.random.default_rng(0).random((FACES, 224, 224, 3), dtype="float32")
    runs: list[Callable[[], Any]] = [lambda: [model.predict(resized) for model in theirs]]
    runs += [functools.partial(model.predict, faces, flip=False) for model in models]
    first, *ours = measure_in_turn(runs, rounds)
    print(f"{FACES} aligned faces, {os.cpu_count()} cores")
    print(f"deepface, age and gender at 224 px: {describe((first[0] / FACES, first[1] / FACES))} a face")
    for name, model, (clock, cpu) in zip(MODELS, models, ours, strict=True):
        words = f"{name}, {model.dtype}, 200 px: {describe((clock / FACES, cpu / FACES))} a face"
        print(f"{words}, {first[0] / clock:.1f} times as fast; CPU {first[1] / cpu:.1f}")


def load_deepface() -> Any:
    """Imports deepface so that its models keep their random weights."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        from deepface import DeepFace
        from deepface.commons import weight_utils
    except ModuleNotFoundError as error:
        raise SystemExit(f"{error}. The first lines of benchmarks/against_deepface.py say how to install it.") from None
    weight_utils.download_weights_if_necessary = lambda file_name, *_, **__: file_name
    weight_utils.load_model_weights = lambda model, weight_file: model
    return DeepFace


def analyze_one(deepface: Any, path: str, detector: str) -> list[dict[str, Any]]:
    """The faces of one photograph, as deepface's users ask for them."""
    options = {"actions": ("age", "gender"), "detector_backend": detector, "enforce_detection": False, "silent": True}
    return deepface.analyze(path, **options)


if __name__ == "__main__":
    main()
