"""Millions of photographs: an Apache Beam pipeline from a file pattern to lines of JSON, on whatever runner.

Needs the extra `[beam]`. The parts are `ReadImages` and `ScoreImages`; `score_images` joins and runs them.
"""

import json
import logging
import os
import pathlib
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import apache_beam as beam
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.portability.api import beam_provision_api_pb2
from apache_beam.pvalue import AsIter, TaggedOutput
from apache_beam.runners.portability.fn_api_runner.fn_runner import ExtendedProvisionInfo, FnApiRunner
from apache_beam.runners.portability.portable_runner import JobServiceHandle
from apache_beam.utils.shared import Shared

from agegender.environment import load_backend
from agegender.inference.images import MAX_BYTES, SUFFIXES, TOO_LONG, ImageError
from agegender.schema import BEST_MODEL, CALIBRATION

FACES: Final = "faces"
UNREADABLE: Final = "unreadable"
COUNTS: Final = ("photographs", "answered", "without_a_face", FACES, UNREADABLE)

_COUNTS_FILE: Final = "counts.json"
_NAMESPACE: Final = "agegender"
_WILDCARD: Final = re.compile(r"[*?[]")
_GLANCE: Final = 1000  # files, of which one is likely to be a image
_LOGGER: Final = logging.getLogger(__name__)


class ReadImages(beam.PTransform):
    """From nothing to (path, bytes) of each file that matches, as they are in the file, in no order.

    A file that cannot be read is (path, ImageError). Counts them as "photographs" of the namespace "agegender".

    Args:
        pattern: a file; a folder, all files below it whose suffix is that of a image; or a glob, in which `*` stands
            for part of a name, `?` for one character and `**` for anything, folders too. In any file system that Beam
            knows: `photographs`, `photographs/**.jpg`, `gs://bucket/*`.

    Raises:
        ValueError: when it is applied, if there is no such file.

    Example: `pipeline | ReadImages("gs://bucket/album") | ScoreImages("gs://bucket/runs/1")`
    """

    def __init__(self, pattern: str | os.PathLike) -> None:
        super().__init__()
        self._pattern = os.fspath(pattern)

    def expand(self, pipeline: Any) -> beam.PCollection:
        """Matches, spreads the names over the workers, and reads where the images are scored."""
        _check_pattern(self._pattern)
        return (
            pipeline
            | beam.Create([self._pattern])
            | "Match" >> beam.FlatMap(_match)
            | beam.Reshuffle()
            | "Read" >> beam.Map(_read)
        )


class ScoreImages(beam.PTransform):
    """From (path, bytes) to what `Predictor` answers, as dicts for JSON.

    Each process of a worker loads the model once. Counts "answered", of these "without_a_face", "faces" and
    "unreadable" of the namespace "agegender": each photograph is either answered or unreadable.

    Args:
        model: as for `Predictor`, but no model in memory: a `.keras` file, the folder of a run, or None for the
            released model. Must be where the workers find it, on their disks or in any file system that Beam knows.
        batch_size: photographs that are held at a time, and faces a step.
        aligned: whether images show one face each, cut as UTKFace cuts them.
        flip: whether to answer with the mean over a face and its mirror image, see `Predictor`.

    Returns:
        When it is applied, two outputs: `faces`, for each photograph what `Photograph.to_dict` gives, and `unreadable`,
        for each other one what `ImageError.to_dict` gives.

    Raises:
        ValueError: if the model is in memory, or the batch size is below 1.

    Example: `(images | ScoreImages("runs/1")).faces | beam.Map(json.dumps) | beam.io.WriteToText("faces")`
    """

    def __init__(
        self,
        model: str | os.PathLike | None = None,
        *,
        batch_size: int = 64,
        aligned: bool = False,
        flip: bool | None = None,
    ) -> None:
        super().__init__()
        if not (model is None or isinstance(model, str | os.PathLike)):
            raise ValueError(f"`model` must be a path or None, for each worker loads it. Received: model={model!r}")
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be 1 or more. Received: batch_size={batch_size}")
        self.model = None if model is None else os.fspath(model)
        self._options = {"batch_size": batch_size, "aligned": aligned, "flip": flip}

    def expand(self, images: beam.PCollection) -> Any:
        """Batches and scores."""
        size = self._options["batch_size"]
        score = beam.ParDo(_Score(self.model, self._options))
        batches = images | beam.BatchElements(min_batch_size=size, max_batch_size=size)
        return batches | score.with_outputs(UNREADABLE, main=FACES)


def score_images(
    pattern: str | os.PathLike,
    out: str | os.PathLike,
    *,
    model: str | os.PathLike | None = None,
    batch_size: int = 64,
    aligned: bool = False,
    flip: bool | None = None,
    options: Sequence[str] = (),
) -> dict[str, int]:
    """Scores all images of a folder or a pattern, and waits until that is done.

    Writes `faces-*-of-*.jsonl` and `unreadable-*-of-*.jsonl`, a photograph a line, and last of all `counts.json`.
    Shards get their names when all are written, so a run that was killed leaves none, or in the moment of renaming
    some; without `counts.json` the folder is unfinished, and the same call again begins anew and replaces them. What a
    killed run leaves in folders `beam-temp-*` serves nobody.

    Args:
        pattern: as for `ReadImages`.
        out: the folder to write to, in any file system that Beam knows.
        model: as for `ScoreImages`, as are `batch_size`, `aligned` and `flip`.
        options: Beam's, as on a command line: `["--runner=FlinkRunner", "--flink_master=host:8081"]`. By default one
            process on this machine; `--direct_num_workers=4 --direct_running_mode=multi_processing` makes it four.

    Returns:
        What is in `counts.json`: how many of each of `COUNTS`, counted in what was written, and so without what a
        lost worker had done already, which Beam's counters may have twice.

    Raises:
        ValueError: if nothing matches, the folder has wildcards in its name, or holds a finished run.
        OSError: if the folder cannot be made.
        FileNotFoundError: if there is no model, as far as this machine can tell: one that only the workers of another
            runner have on their disks is not looked for.
        RuntimeError: or the runner's own: if the pipeline fails, or photographs are missing from the counts.
    """
    out = os.fspath(out)
    beam_options = PipelineOptions(list(options))
    runner = beam_options.view_as(StandardOptions).runner
    # From here on, FileSystems have their options.
    pipeline = beam.Pipeline(runner or _local_runner(beam_options), options=beam_options)
    score = ScoreImages(model, batch_size=batch_size, aligned=aligned, flip=flip)
    _check_out(out)
    _check_model(score.model, local=not runner)
    images = pipeline | ReadImages(pattern)
    if not FileSystems.exists(out):
        FileSystems.mkdirs(out)  # what cannot be written to is better said before all images are scored
    scored = images | score
    written = [AsIter(_write(scored[name], FileSystems.join(out, name), name)) for name in (FACES, UNREADABLE)]
    counts = (
        _total(images, lambda _: {"photographs": 1}, "photographs"),
        _total(scored[FACES], _counts, FACES),
        _total(scored[UNREADABLE], _counts, UNREADABLE),
    )
    total = counts | beam.Flatten() | beam.CombineGlobally(_add)
    # After all shards, so that none is missing where there are counts.
    words = total | beam.Map(_reconciled, *written)
    _ = words | "Write counts" >> beam.io.WriteToText(FileSystems.join(out, _COUNTS_FILE), shard_name_template="")
    pipeline.run().wait_until_finish()
    with FileSystems.open(FileSystems.join(out, _COUNTS_FILE)) as file:
        return json.loads(file.read())


class _Score(beam.DoFn):
    def __init__(self, model: str | None, options: dict[str, Any]) -> None:
        super().__init__()
        self._model, self._options = model, options
        self._shared = Shared()  # one for all threads of a process and all bundles

    def setup(self) -> None:
        self._predictor = self._shared.acquire(lambda: _load(self._model, self._options))

    def process(self, batch: list[tuple[str, bytes | ImageError]]) -> Iterator[Any]:
        answers = self._predictor.stream(content for _, content in batch if isinstance(content, bytes))
        for path, content in batch:
            answer = next(answers) if isinstance(content, bytes) else content
            row = {**answer.to_dict(), "image": path}
            for name, number in _counts(row).items():
                _count(name, number)
            yield TaggedOutput(UNREADABLE, row) if isinstance(answer, ImageError) else row


def _counts(row: dict[str, Any]) -> dict[str, int]:
    """What one row adds to the counts."""
    if FACES not in row:
        return {UNREADABLE: 1}
    faces = len(row[FACES])
    return {"answered": 1, "without_a_face": int(not faces), FACES: faces}


def _total(rows: beam.PCollection, counts: Callable[[Any], dict[str, int]], name: str) -> beam.PCollection:
    return rows | f"Count {name}" >> beam.Map(counts) | f"Add {name}" >> beam.CombineGlobally(_add)


def _add(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total = Counter(dict.fromkeys(COUNTS, 0))
    for each in counts:
        total.update(each)
    return dict(total)


def _reconciled(counts: dict[str, int], *_: Any) -> str:
    if counts["photographs"] != counts["answered"] + counts[UNREADABLE]:
        raise RuntimeError(f"answered and unreadable must add up to photographs. Received: {counts}")
    return json.dumps(counts)


def _load(model: str | None, options: dict[str, Any]) -> Any:
    load_backend()
    from agegender.inference.predictor import Predictor  # takes seconds, and only workers need it

    with tempfile.TemporaryDirectory(prefix="agegender-") as folder:
        predictor = Predictor(model if model is None or "://" not in model else _fetch(model, folder), **options)
    _LOGGER.info("process %d has loaded the model", os.getpid())
    return predictor


def _fetch(model: str, folder: str) -> str:
    """Copies a model, and what `Predictor` looks for beside it, from where Keras cannot read."""
    beside, name = FileSystems.split(_model_file(model))
    for each in {name, BEST_MODEL, CALIBRATION}:
        source = FileSystems.join(beside, each)
        if each == name or FileSystems.exists(source):
            with FileSystems.open(source) as reader, open(os.path.join(folder, each), "wb") as writer:
                shutil.copyfileobj(reader, writer)
    return os.path.join(folder, name)


def _local_runner(options: PipelineOptions) -> FnApiRunner:
    """What Beam's DirectRunner comes to, which first looks on the network for another program, of one process.

    Built here, and not named in the options, for then its processes would not be told them.
    """
    encoded = JobServiceHandle.encode_pipeline_options(options.get_all_options())
    told = beam_provision_api_pb2.ProvisionInfo(pipeline_options=encoded)
    return FnApiRunner(provision_info=ExtendedProvisionInfo(told))


def _match(pattern: str) -> list[bytes]:
    paths = _find(pattern)
    _count("photographs", len(paths))
    return [path.encode("utf-8", "surrogateescape") for path in paths]


def _find(pattern: str, limit: int | None = None) -> list[str]:
    """The files of a pattern, or of the first `limit` that were looked at."""
    there = FileSystems.exists(pattern)  # also a file or folder that has wildcards in its name
    if _WILDCARD.search(pattern) and not there:
        return _glob(pattern, limit)
    below = _glob(FileSystems.join(_WILDCARD.sub("?", pattern), "**"), limit)
    images = [path for path in below if path.startswith(pattern) and _is_image(path)]
    return images or ([pattern] if there and not os.path.isdir(pattern) else [])


def _glob(pattern: str, limit: int | None) -> list[str]:
    # Beam finds nothing in a folder without a name.
    here = "" if "/" in _WILDCARD.split(pattern)[0] else "./"
    found = FileSystems.match([here + pattern], [limit])[0].metadata_list
    return [each.path.removeprefix(here) for each in found]


def _is_image(path: str) -> bool:
    name = pathlib.PurePath(path)
    return name.suffix.lower() in SUFFIXES and not name.name.startswith(".")


def _read(name: bytes) -> tuple[str, bytes | ImageError]:
    # A name on a disk need not be text, and Beam's coders would fail on a str that stands for one that is not.
    path = name.decode("utf-8", "backslashreplace")
    try:
        with FileSystems.open(
            name.decode("utf-8", "surrogateescape"), compression_type=CompressionTypes.UNCOMPRESSED
        ) as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:  # Beam's own is one, too
        return path, ImageError(path, f"cannot be read: {error}")
    if len(content) > MAX_BYTES:
        return path, ImageError(path, TOO_LONG)
    return path, content


def _write(rows: beam.PCollection, prefix: str, name: str) -> beam.PCollection:
    lines = rows | f"{name} as JSON" >> beam.Map(json.dumps)
    return lines | f"write {name}" >> beam.io.WriteToText(prefix, file_name_suffix=".jsonl")


def _count(name: str, by: int) -> None:
    Metrics.counter(_NAMESPACE, name).inc(by)


def _model_file(model: str) -> str:
    itself = model.endswith(".keras") or os.path.isfile(model)
    return model if itself else FileSystems.join(model, BEST_MODEL)


def _check_pattern(pattern: str) -> None:
    if not (_find(pattern, _GLANCE) or _find(pattern)):
        hint = f"of a folder, a file below it that ends in {', '.join(SUFFIXES)}"
        if "[" in pattern:
            hint = "for a [ in the name of a folder write ?"
        elif not _WILDCARD.search(pattern) and not FileSystems.exists(pattern):
            hint = "there is no such file or folder"
        raise ValueError(
            f"`pattern` (of the script: --images) must match a image or more; {hint}. Received: pattern={pattern!r}"
        )


def _check_model(model: str | None, *, local: bool) -> None:
    if model is None and local:
        from agegender.models.saving import find_released

        find_released()
    elif model is not None and (local or "://" in model) and not FileSystems.exists(_model_file(model)):
        raise FileNotFoundError(f"There is no trained model at {model}. Give the folder of a run, or a .keras file.")


def _check_out(out: str) -> None:
    if _WILDCARD.search(out):  # Beam would look for its temporary files by a glob, at the end, and not find them
        raise ValueError(f"`out` must have none of *, ? and [ in its name. Received: out={out!r}")
    if FileSystems.exists(FileSystems.join(out, _COUNTS_FILE)):
        raise ValueError(f"`out` must not hold a finished run; give another folder. Received: out={out!r}")
