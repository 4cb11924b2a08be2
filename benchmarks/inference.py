r"""Photographs to answers: speed of the detector and the predictor, each beside what it replaces, in turn in one run.

    python -m benchmarks.inference
    python -m benchmarks.inference --images=FOLDER --rounds=9

Photographs are drawn by the project, or mosaics of the images of a folder. Prints medians, in milliseconds, of CPU and
of the clock. Run it with nothing beside it.
"""

import argparse
import io
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from PIL import Image

SIZES: Final = ((800, 600), (1600, 1200), (4000, 3000))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=pathlib.Path, help="folder of photographs to make the mosaics of")
    parser.add_argument("--rounds", type=int, default=5, help="(5)")
    parser.add_argument("--folder", type=int, default=100, help="photographs of the folder that is predicted (100)")
    args = parser.parse_args(arguments)
    photographs = {size: make_photograph(size, args.images) for size in SIZES}
    compare_detectors(photographs, args.rounds)
    time_predictor(photographs, args.rounds, args.folder)


def compare_detectors(photographs: dict[tuple[int, int], bytes], rounds: int) -> None:
    """Times finding faces, decoding included, against the `mtcnn` package."""
    from mtcnn import MTCNN

    from agegender.inference.detection import FaceDetector
    from agegender.inference.images import read_reduced

    mtcnn, detector = MTCNN(), FaceDetector()

    def find_faces(jpeg: bytes) -> int:
        image, size = read_reduced(jpeg, 3_000_000)  # as the predictor does
        return len(detector(image, scale=size[0] / image.width))

    def find_with_mtcnn(jpeg: bytes) -> int:
        return len(mtcnn.detect_faces(np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))))

    for (width, height), jpeg in photographs.items():
        ours, theirs = measure_in_turn([lambda: find_faces(jpeg), lambda: find_with_mtcnn(jpeg)], rounds)  # noqa: B023
        print(
            f"faces of {width} x {height}: {describe(ours)}; mtcnn {describe(theirs)}; "
            f"{theirs[0] / ours[0]:.1f} times the clock, {theirs[1] / ours[1]:.1f} times the CPU; "
            f"{find_faces(jpeg)} and {find_with_mtcnn(jpeg)} faces"
        )


def time_predictor(photographs: dict[tuple[int, int], bytes], rounds: int, count: int) -> None:
    """Times a frame, a folder of mixed sizes, and the command on one file."""
    import agegender as ag

    predictor = ag.Predictor()
    frame = np.asarray(Image.open(io.BytesIO(make_photograph((640, 480), None))))
    (seconds,) = measure_in_turn([lambda: predictor(frame)], rounds)
    print(f"a frame of 640 x 480, {len(predictor(frame))} faces: {describe(seconds)}")
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            size = SIZES[:2][number % 2]
            pathlib.Path(folder, f"{number}.jpg").write_bytes(photographs[size])
        start = time.perf_counter()
        answers = predictor(folder)
        elapsed = time.perf_counter() - start
        print(f"a folder of {count}: {count / elapsed:.1f} photographs a second, {sum(map(len, answers))} faces")
        command = [sys.executable, "-m", "agegender.cli", "predict", f"{folder}/0.jpg"]
        environ = {**os.environ, "PYTHONPATH": os.getcwd()}
        runs = [lambda: subprocess.run(command, env=environ, check=True, stdout=subprocess.DEVNULL)]
        (seconds,) = measure_in_turn(runs, rounds)
        print(f"`agegender predict one.jpg`, whole process: {describe(seconds)}")


def make_photograph(size: tuple[int, int], folder: pathlib.Path | None) -> bytes:
    """A JPEG file of a size: drawn people, or a mosaic of a folder's images."""
    from agegender.inference.images import find_images, read_image
    from agegender.synthetic.faces import draw_people

    side = size[1] // 2
    photograph = Image.new("RGB", size, (110, 115, 120))
    if folder is None:
        people = Image.fromarray(draw_people([(30, 1, 2, 1), (55, 0, 3, 2)], size=side))
        photograph.paste(people.crop((0, 0, *size)), (0, size[1] // 6))
    else:
        images = find_images(folder)
        for number, (x, y) in enumerate((x, y) for y in range(0, size[1], side) for x in range(0, size[0], side)):
            photograph.paste(read_image(images[number % len(images)]).resize((side, side)), (x, y))
    file = io.BytesIO()
    photograph.save(file, "JPEG", quality=92)
    return file.getvalue()


def measure_in_turn(
    functions: Sequence[Callable[[], Any]], rounds: int, *, warm_up: bool = True
) -> list[tuple[float, float]]:
    """Calls functions one after the other, several times, after one call each that does not count.

    Returns:
        For each the medians in seconds of the clock and of the CPU, that of child processes included.
    """
    for function in functions if warm_up else ():
        function()
    seconds: list[list[tuple[float, float]]] = [[] for _ in functions]
    for _ in range(rounds):
        for function, measured in zip(functions, seconds, strict=True):
            clock, cpu = time.perf_counter(), read_cpu_seconds()
            function()
            measured.append((time.perf_counter() - clock, read_cpu_seconds() - cpu))
    return [(statistics.median(c for c, _ in each), statistics.median(c for _, c in each)) for each in seconds]


def read_cpu_seconds() -> float:
    """CPU seconds of this process and of its children that have ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def describe(seconds: tuple[float, float]) -> str:
    return f"{seconds[0] * 1e3:.0f} ms ({seconds[1] * 1e3:.0f} of CPU)"


if __name__ == "__main__":
    main()
