r"""What building UTKFace costs, beside reading and decoding its images once, and how that grows with their number.

    python -m benchmarks.build --manual_dir=FOLDER            # seconds: the build, and the plain loop
    python -m benchmarks.build --manual_dir=FOLDER --eighth   # memory: for an eighth of the files, for all
    python -m benchmarks.build --growth                       # both, for 12,500 to 200,000 drawn images

The plain loop reads every file with Python's own tarfile or zipfile and calls `tf.io.decode_jpeg` on it once. Loop and
build take turns, and the ratio is that of their medians. Imports and a small first build are outside of all clocks. CPU
seconds, of all threads, tell what a shared machine hides; where they exceed the wall's, threads have been at work.

Memory is that of a process of its own for each build: what it holds before, the peak of what it holds, and both
without the pages of files, which the system takes back when it wants them ("own"). It needs Linux. The exponent is that
of the growth from the row above: 1 if twice the images take twice the time, 2 if each is compared with each.

Drawn images are parts of two synthetic faces laid into each other, each cropped by 8 to 20 % and perhaps mirrored: as
many of them are near each other as of real ones. Every twentieth is planted: its predecessor, recompressed, cropped by
another 1 to 2 % or mirrored; found is the share of those that end up in their predecessor's group.
"""

import contextlib
import cProfile
import importlib
import io
import json
import math
import os
import pathlib
import pstats
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from absl import app, flags
from PIL import Image

from benchmarks.turns import resident

_MANUAL_DIR = flags.DEFINE_string("manual_dir", None, "Folder with UTKFace, as for `tfds build`.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "How often loop and build take their turns.", lower_bound=1)
_EIGHTH = flags.DEFINE_bool("eighth", False, "Compare the memory for the first eighth of the files with that for all.")
_GROWTH = flags.DEFINE_bool("growth", False, "Build from ever more drawn images; needs no --manual_dir.")
_SIZES = flags.DEFINE_list("sizes", "12500,25000,50000,100000,200000", "Numbers of images for --growth.")
_OUT = flags.DEFINE_string("out", None, "File for the numbers as JSON.")
_ONE_BUILD = flags.DEFINE_string("one_build", None, "Build from this folder once, and print JSON: for its own use.")

ROOT = pathlib.Path(__file__).parents[1]
SIDE, POOL, PLANTED_EVERY, TOLD = 64, 1500, 20, 16  # pixels; faces drawn; images; lines of the profile
COLUMNS = (  # of the tables for --growth and --eighth: title, width, decimals
    *(("images", 9, 0), ("seconds", 7, 1), ("CPU", 6, 1), ("us each", 7, 0), ("exponent", 8, 2), ("of CPU", 6, 2)),
    *(("taking in", 9, 1), ("grouping", 8, 1), ("writing", 7, 1), ("groups", 9, 0), ("found", 6, 3)),
    *(("MB before", 9, 0), ("peak", 6, 0), ("own before", 10, 0), ("own peak", 8, 0), ("load", 5, 1)),
)
Numbers = dict[str, Any]
NamedFile = tuple[str, bytes]


def files(folder: str) -> Iterator[NamedFile]:
    """Yields every file below a folder, in archives too: its name and its bytes."""
    for where, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(where, name)
            if name.endswith((".tar.gz", ".tgz", ".tar")):
                with tarfile.open(path) as tar:
                    yield from ((m.name, content.read()) for m in tar if m.isreg() and (content := tar.extractfile(m)))
            elif name.endswith(".zip"):
                with zipfile.ZipFile(path) as archive:
                    yield from ((m.filename, archive.read(m)) for m in archive.infolist() if not m.is_dir())
            else:
                yield name, pathlib.Path(path).read_bytes()


def read_and_decode(folder: str) -> int:
    """Reads and decodes every image once and does nothing else; returns their number."""
    import tensorflow as tf

    count = 0
    for _, content in files(folder):
        with contextlib.suppress(tf.errors.InvalidArgumentError):
            tf.io.decode_jpeg(content, channels=3)
            count += 1
    return count


def get_ready() -> Callable[[str], Any]:
    """Imports the builder, builds a few drawn faces, and returns what builds from a folder and returns the builder."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.path.insert(0, str(ROOT / "datasets"))
    import tensorflow_datasets as tfds
    from absl import logging

    import agegender

    utkface_dataset_builder = importlib.import_module("utkface.utkface_dataset_builder")

    logging.set_verbosity(logging.ERROR)
    tfds.disable_progress_bar()

    def build(folder: str) -> Any:
        with tempfile.TemporaryDirectory() as data_dir, contextlib.redirect_stdout(io.StringIO()):
            builder = utkface_dataset_builder.Builder(data_dir=data_dir)
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=folder))
        return builder

    with tempfile.TemporaryDirectory() as folder:
        agegender.write_faces(folder, 40, size=SIDE)
        build(folder)
        read_and_decode(folder)
    return build


def clock(function: Callable[..., Any], *arguments: Any) -> tuple[float, float]:
    """Returns the seconds, on the wall and of the CPU, that a call takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    function(*arguments)
    return time.perf_counter() - wall, time.process_time() - cpu


@contextlib.contextmanager
def phases() -> Iterator[Numbers]:
    """Fills in, from the next build, the seconds of its phases and, as `table`, what it found."""
    intake = importlib.import_module("utkface.intake")
    utkface_dataset_builder = importlib.import_module("utkface.utkface_dataset_builder")
    seen: Numbers = {}

    def timed(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            seen["table"] = function(*arguments, **options)
            seen[name] = time.perf_counter() - start
            return seen["table"]

        return call

    functions = ((intake, "take_in", "taking in"), (utkface_dataset_builder, "_tabulate", "grouping"))
    before = [(module, name, getattr(module, name)) for module, name, _ in functions]
    for module, name, phase in functions:
        setattr(module, name, timed(getattr(module, name), phase))
    start = time.perf_counter()
    yield seen
    seen["writing"] = time.perf_counter() - start - seen["taking in"] - seen["grouping"]
    for module, name, function in before:
        setattr(module, name, function)


def cost(folder: str, rounds: int) -> Numbers:
    """Times loop and build in turn, then the phases of one build and the functions of another."""
    build = get_ready()
    images = read_and_decode(folder)
    print(f"{images:,} images; seconds on the wall (of the CPU)")
    turns = []
    for turn in range(rounds):
        turns.append((clock(read_and_decode, folder), clock(build, folder)))
        (loop, loop_cpu), (built, built_cpu) = turns[-1]
        print(
            f"  round {turn + 1}: read and decode {loop:6.2f} ({loop_cpu:6.2f})   build {built:6.2f} ({built_cpu:6.2f})"
            f"   ratio {built / loop:.2f} ({built_cpu / loop_cpu:.2f})   load {os.getloadavg()[0]:.1f}",
            flush=True,
        )
    loop, loop_cpu, built, built_cpu = np.median(np.array(turns).reshape(rounds, 4), axis=0).tolist()
    print(f"  medians: {loop:.2f} ({loop_cpu:.2f}) and {built:.2f} ({built_cpu:.2f})")
    print(f"  ratio of the medians: {built / loop:.2f} ({built_cpu / loop_cpu:.2f})")
    with phases() as seen:
        build(folder)
    del seen["table"]
    print("Phases of one more build: " + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in seen.items()))
    return {
        "images": images,
        "rounds": turns,
        "ratio": built / loop,
        "cpu_ratio": built_cpu / loop_cpu,
        "phases": seen,
        "profile": profile(build, folder),
    }


def profile(build: Callable[[str], Any], folder: str) -> list[Numbers]:
    """Prints the functions that take most of a build by themselves."""
    profiler = cProfile.Profile()
    profiler.runcall(build, folder)
    stats = pstats.Stats(profiler).stats  # type: ignore[attr-defined]  # of (file, line, name): calls, own seconds
    rows = sorted(((own, total, calls, *key) for key, (_, calls, own, total, _) in stats.items()), reverse=True)[:TOLD]
    print("Under cProfile, which slows small functions: own seconds, with what they call, calls")
    for own, total, calls, file, line, name in rows:
        print(f"  {own:6.2f} {total:6.2f} {calls:9,}  {'/'.join(file.split('/')[-2:])}:{line} {name}")
    return [
        {"function": name, "file": file, "own": own, "total": total, "calls": c}
        for own, total, c, file, _, name in rows
    ]


def one_build(folder: str) -> Numbers:
    """Builds once, in a process that has done nothing else, and returns its seconds, its memory and what it found."""
    build = get_ready()
    before, own, done = {kind: resident(kind) for kind in ("VmRSS", "RssAnon")}, [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            own[0] = max(own[0], resident("RssAnon"))

    with contextlib.suppress(OSError):
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of the imports
    watcher = threading.Thread(target=watch)
    watcher.start()
    with phases() as seen:
        seconds, cpu = clock(build, folder)
    done.set()
    watcher.join()
    table = seen.pop("table")
    group = dict(zip((pathlib.PurePath(path).name for path in table.intake.paths), table.groups, strict=True))
    return {
        "images": len(group),
        "seconds": seconds,
        "CPU": cpu,
        **seen,
        "groups": len(set(table.groups)),
        "found": _found(group),
        "MB before": before["VmRSS"],
        "peak": resident("VmHWM"),
        "own before": before["RssAnon"],
        "own peak": own[0],
    }


def _found(group: dict[str, str]) -> float | None:
    """Returns the share of planted images that are in their predecessor's group, where there are any."""
    pairs = [(_name(index), _name(index - 1)) for index in range(PLANTED_EVERY - 1, len(group), PLANTED_EVERY)]
    found = [group[name] == group[twin] for name, twin in pairs if {name, twin} <= group.keys()]
    return statistics.mean(found) if found else None


def in_a_process(folder: str) -> Numbers:
    command = [sys.executable, "-m", "benchmarks.build", f"--one_build={folder}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"The build from {folder} failed: {done.stderr[-2000:]}")
    result: Numbers = json.loads(done.stdout.splitlines()[-1])
    return result


def write_tars(folder: pathlib.Path, sizes: Iterable[int], content: Iterable[NamedFile]) -> list[pathlib.Path]:
    """Writes the first so many files into a tar for each size; returns the folder of each."""
    folders = [folder / str(size) for size in sizes]
    with contextlib.ExitStack() as stack:
        tars = []
        for size, each in zip(sizes, folders, strict=True):
            each.mkdir()
            tars.append((size, stack.enter_context(tarfile.open(each / "UTKFace.tar", "w"))))
        for index, (name, data) in enumerate(content):
            member = tarfile.TarInfo(f"UTKFace/{pathlib.PurePath(name).name}")
            member.size = len(data)
            for _, tar in (each for each in tars if index < each[0]):
                tar.addfile(member, io.BytesIO(data))
                tar.members.clear()  # type: ignore[attr-defined]  # it remembers each
    return folders


def sizes_in_turn(sizes: list[int], content: Iterable[NamedFile]) -> list[Numbers]:
    """Builds from the first so many files for each size, each in its own process, and prints a row for each."""
    rows: list[Numbers] = []
    print(" ".join(f"{title:>{width}}" for title, width, _ in COLUMNS))
    with tempfile.TemporaryDirectory() as folder:
        for each in write_tars(pathlib.Path(folder), sizes, content):
            row = in_a_process(str(each))
            row |= {"us each": 1e6 * row["seconds"] / row["images"], "load": os.getloadavg()[0]}
            if rows:
                more, longer, busier = (math.log(row[key] / rows[-1][key]) for key in ("images", "seconds", "CPU"))
                row |= {"exponent": longer / more, "of CPU": busier / more}
            rows.append(row)
            print(" ".join(_cell(row.get(title), width, places) for title, width, places in COLUMNS), flush=True)
    return rows


def _cell(value: float | None, width: int, places: int) -> str:
    return " " * width if value is None else f"{value:{width},.{places}f}"


def drawn_images(count: int) -> Iterator[NamedFile]:
    """Yields images that differ, but for the planted ones, which follow what they copy."""
    from agegender.synthetic.faces import draw_face

    random = np.random.default_rng(0)
    people = [(index % 100, index % 2, index % 5) for index in range(min(count, POOL))]
    pool = [Image.fromarray(draw_face(*person, seed=index, size=SIDE)) for index, person in enumerate(people)]
    image = pool[0]
    for index in range(count):
        if index % PLANTED_EVERY == PLANTED_EVERY - 1:
            way = random.choice(["recompressed", "cropped", "mirrored"])
            changed = _cropped(image, random, 0.01, 0.02) if way == "cropped" else image
            changed = _mirrored(image) if way == "mirrored" else changed
            yield _name(index), _jpeg(changed, int(random.integers(50, 75)))
        else:
            image = _laid_into_each_other(pool, random)
            yield _name(index), _jpeg(image, int(random.integers(75, 96)))


def _name(index: int) -> str:
    return f"{1 + index % 100}_{index % 2}_{index % 5}_2017{index:013d}.jpg.chip.jpg"


def _laid_into_each_other(pool: list[Image.Image], random: np.random.Generator) -> Image.Image:
    """Returns two faces of the pool on either side of a soft line of any direction."""
    chosen = (pool[index] for index in random.integers(len(pool), size=2))
    cropped = (_cropped(image, random, 0.08, 0.2) for image in chosen)
    first, second = (_mirrored(image) if random.random() < 0.5 else image for image in cropped)
    at, angle = np.linspace(-1, 1, SIDE), random.uniform(0, 2 * np.pi)
    across = np.cos(angle) * at[:, None] + np.sin(angle) * at + random.uniform(-0.5, 0.5)
    share = 1 / (1 + np.exp(-across * random.uniform(2, 8)))
    return Image.composite(first, second, Image.fromarray((255 * share).astype(np.uint8)))


def _mirrored(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def _cropped(image: Image.Image, random: np.random.Generator, low: float, high: float) -> Image.Image:
    side = SIDE * (1 - random.uniform(low, high))
    left, top = random.uniform(0, SIDE - side, 2)
    return image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, (left, top, left + side, top + side))


def _jpeg(image: Image.Image, quality: int) -> bytes:
    image.save(file := io.BytesIO(), "JPEG", quality=quality)
    return file.getvalue()


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"No arguments beside flags. Received: {argv[1:]}")
    if _ONE_BUILD.value:
        print(json.dumps(one_build(_ONE_BUILD.value)))
        return
    if _GROWTH.value:
        sizes = [int(size) for size in _SIZES.value]
        result: Numbers = {"growth": sizes_in_turn(sizes, drawn_images(max(sizes)))}
    elif not _MANUAL_DIR.value:
        raise app.UsageError("Say --manual_dir=FOLDER or --growth.")
    elif _EIGHTH.value:
        count = sum(1 for _ in files(_MANUAL_DIR.value))
        result = {"eighth": sizes_in_turn([max(1, count // 8), count], files(_MANUAL_DIR.value))}
    else:
        result = {"cost": cost(_MANUAL_DIR.value, _ROUNDS.value)}
    if _OUT.value:
        pathlib.Path(_OUT.value).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main)
