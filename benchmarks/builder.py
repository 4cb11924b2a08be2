r"""Compares building UTKFace with reading and decoding each of its files once.

    python -m benchmarks.builder --manual_dir=FOLDER

The baseline reads every file of the folder, in archives too, and calls `tf.io.decode_jpeg` on it once. Imports and a
small first build are not timed. Without `--manual_dir`, it draws `--count` faces.
"""

import contextlib
import importlib
import io
import os
import pathlib
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks import timing

ROOT = pathlib.Path(__file__).parents[1]
READ, BUILD = "read and decode", "build"


def measure(data_dir: str | None, *, rounds: int = 5, manual_dir: str = "", count: int = 2000) -> timing.Result:
    import agegender as ag

    build = _import_builder(data_dir)
    with tempfile.TemporaryDirectory() as folder:
        if not manual_dir:
            ag.write_faces(folder, count, size=64)
        source = manual_dir or folder
        images = read_and_decode(source)
        functions = {READ: lambda: read_and_decode(source), BUILD: lambda: build(source)}
        seconds = timing.time_in_turn(functions, rounds=rounds)
    ratios = [timing.Ratio(f"{BUILD} / {READ}", timing.divide(seconds, BUILD, READ))]
    return timing.Result(f"{images:,} images", timing.make_rows(seconds, count=images, unit="us per image"), ratios)


def read_files(folder: str) -> Iterator[bytes]:
    """Yields the content of every file below a folder, in archives too."""
    for path in filter(pathlib.Path.is_file, pathlib.Path(folder).rglob("*")):
        if path.name.endswith((".tar.gz", ".tgz", ".tar")):
            with tarfile.open(path) as tar:
                yield from (content.read() for m in tar if m.isreg() and (content := tar.extractfile(m)))
        elif path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                yield from (archive.read(m) for m in archive.infolist() if not m.is_dir())
        else:
            yield path.read_bytes()


def read_and_decode(folder: str) -> int:
    """Reads and decodes every image once and returns how many there are."""
    import tensorflow as tf

    count = 0
    for content in read_files(folder):
        with contextlib.suppress(tf.errors.InvalidArgumentError):
            tf.io.decode_jpeg(content, channels=3)
            count += 1
    return count


def _import_builder(data_dir: str | None) -> Callable[[str], Any]:
    """Returns a function that builds from a folder into a new one, below `data_dir` if that is given."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.path.insert(0, str(ROOT / "datasets"))
    import tensorflow_datasets as tfds
    from absl import logging

    module = importlib.import_module("utkface.utkface_dataset_builder")
    logging.set_verbosity(logging.ERROR)
    tfds.disable_progress_bar()

    def build(folder: str) -> None:
        with tempfile.TemporaryDirectory(dir=data_dir) as new, contextlib.redirect_stdout(io.StringIO()):
            builder = module.Builder(data_dir=new)
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=folder))

    return build


if __name__ == "__main__":
    timing.main(measure)
