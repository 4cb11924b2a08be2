"""Scores very many photographs with an Apache Beam pipeline: from a file pattern to lines of JSON, on any runner.

Needs the extra `[beam]`. The transforms are `ReadImages` and `ScoreImages`; `score_images` joins and runs them.
"""

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import apache_beam as beam
from apache_beam.io import fileio
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.ml.inference.base import ModelHandler, RunInference
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.pvalue import AsIter

from agegender.environment import load_backend
from agegender.inference.images import MAX_BYTES, SUFFIXES, TOO_LONG, ImageError
from agegender.schema import BEST_MODEL, CALIBRATION

FACES: Final = "faces"
UNREADABLE: Final = "unreadable"
COUNTS: Final = ("photographs", "answered", "without_a_face", FACES, UNREADABLE)

_COUNTS_FILE: Final = "counts.json"
_WILDCARDS: Final = frozenset("*?[")
_MODEL_SUFFIXES: Final = (".keras", ".onnx")
# Beam's DirectRunner first looks on the network for a program named Prism.
_LOCAL_RUNNER: Final = "FnApiRunner"

Example = tuple[str, bytes | ImageError]


class ReadImages(beam.PTransform):
    """Reads the files that match a pattern as (path, bytes), or (path, ImageError) for a file that cannot be read.

    Args:
        pattern: a folder, of which all files below are read but hidden ones; or a glob, in which `*` stands for part of
            a name, `?` for one character and `**` for anything including folders. In any file system that
            Beam supports: `photographs`, `photographs/**.jpg`, `gs://bucket/*`.

    Example: `pipeline | ReadImages("gs://bucket/album") | ScoreImages("gs://bucket/runs/1")`
    """

    def __init__(self, pattern: str | os.PathLike) -> None:
        super().__init__()
        self.pattern, self.is_folder = _make_glob(os.fspath(pattern))

    def expand(self, pipeline: Any) -> beam.PCollection:
        """Matches, distributes the files over the workers and reads them."""
        matches = pipeline | fileio.MatchFiles(self.pattern)
        if self.is_folder:
            matches = matches | beam.Filter(_is_visible)
        files = matches | beam.Reshuffle() | fileio.ReadMatches(compression=CompressionTypes.UNCOMPRESSED)
        return files | "Read" >> beam.Map(_read_file)


class ScoreImages(beam.PTransform):
    """Maps (path, bytes) to the answers of `Predictor`, as dicts for JSON.

    Each process of a worker loads the model once.

    Args:
        model: the path of a `.keras` or `.onnx` file or of a run, or None for the released model. The workers must find
            it, on their disks or in any file system that Beam supports.
        batch_size: photographs per batch, and faces per step.
        aligned: whether images show one aligned face each.
        flip: whether to average over each face and its mirror image, see `Predictor`.

    Returns:
        Two outputs: `faces` with `Photograph.to_dict` for each photograph, and `unreadable` with `ImageError.to_dict`
        for each image that cannot be used.

    Raises:
        ValueError: if the model is not a path, or the batch size is below 1.

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
            raise ValueError(f"`model` must be a path or None, because each worker loads it. Received: model={model!r}")
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be 1 or more. Received: batch_size={batch_size}")
        self.model = None if model is None else os.fspath(model)
        self._options = {"batch_size": batch_size, "aligned": aligned, "flip": flip}

    def expand(self, images: beam.PCollection) -> Any:
        """Batches, scores and splits the answers."""
        rows = images | RunInference(_PredictorHandler(self.model, self._options))
        return rows | beam.ParDo(_split_row).with_outputs(UNREADABLE, main=FACES)


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
    """Scores all images of a folder or glob, and waits for the end.

    Writes `faces-*-of-*.jsonl` and `unreadable-*-of-*.jsonl`, one photograph per line, and at the end `counts.json`.
    Without `counts.json` the folder is unfinished: the same call starts over and replaces the files. A killed run may
    leave folders `beam-temp-*`, which can be deleted.

    Args:
        pattern: as for `ReadImages`.
        out: the folder to write to, in any file system that Beam supports.
        model: as for `ScoreImages`.
        batch_size: as for `ScoreImages`.
        aligned: as for `ScoreImages`.
        flip: as for `ScoreImages`.
        options: Beam's, as on a command line: `["--runner=FlinkRunner", "--flink_master=host:8081"]`. The default is
            one process on this machine; `--direct_num_workers=4 --direct_running_mode=multi_processing` uses four.

    Returns:
        The content of `counts.json`: the number of each of `COUNTS` in what was written.

    Raises:
        ValueError: if nothing matches, or `out` has wildcards in its name or contains a finished run.
        OSError: if the folder cannot be created.
        FileNotFoundError: if this machine finds no model where it can look.
        RuntimeError: or an error of the runner, if the pipeline fails or photographs are missing from the counts.
    """
    out = os.fspath(out)
    beam_options = PipelineOptions(list(options))
    runner = beam_options.view_as(StandardOptions).runner
    pipeline = beam.Pipeline(runner or _LOCAL_RUNNER, options=beam_options)  # configures FileSystems
    read = ReadImages(pattern)
    score = ScoreImages(model, batch_size=batch_size, aligned=aligned, flip=flip)
    _check_out(out)
    _check_model(score.model, is_local=not runner)
    _check_matches(read)
    if not FileSystems.exists(out):
        FileSystems.mkdirs(out)  # fails before the images are scored

    images = pipeline | read
    scored = images | score
    written = [AsIter(_write_rows(scored[name], FileSystems.join(out, name), name)) for name in (FACES, UNREADABLE)]
    counts = (
        images | "Count photographs" >> beam.Map(lambda _: {"photographs": 1}),
        scored[FACES] | "Count faces" >> beam.Map(_count_row),
        scored[UNREADABLE] | "Count unreadable" >> beam.Map(_count_row),
    )
    total = counts | beam.Flatten() | beam.CombineGlobally(_add_counts)
    # After all shards, so that a folder with counts is complete.
    lines = total | beam.Map(_reconcile_counts, *written)
    _ = lines | "Write counts" >> beam.io.WriteToText(FileSystems.join(out, _COUNTS_FILE), shard_name_template="")
    pipeline.run().wait_until_finish()
    with FileSystems.open(FileSystems.join(out, _COUNTS_FILE)) as file:
        return json.loads(file.read())


class _PredictorHandler(ModelHandler[Example, dict, Any]):
    """Lets Beam's RunInference batch, load and share a `Predictor`."""

    def __init__(self, model: str | None, options: dict[str, Any]) -> None:
        super().__init__()
        self._model, self._options = model, options

    def load_model(self) -> Any:
        load_backend()
        from agegender.inference.predictor import Predictor  # only workers need it, and it takes seconds

        with tempfile.TemporaryDirectory(prefix="agegender-") as folder:
            model = self._model
            if model is not None and "://" in model:
                model = _copy_model(model, folder)
            return Predictor(model, **self._options)

    def run_inference(self, batch: Sequence[Example], model: Any, inference_args: Any = None) -> Iterator[dict]:
        answers = model.stream(content for _, content in batch if isinstance(content, bytes))
        for path, content in batch:
            answer = next(answers) if isinstance(content, bytes) else content
            yield {**answer.to_dict(), "image": path}

    def batch_elements_kwargs(self) -> Mapping[str, Any]:
        size = self._options["batch_size"]
        return {"min_batch_size": size, "max_batch_size": size}


def _make_glob(pattern: str) -> tuple[str, bool]:
    """Returns the glob for a pattern and whether the pattern is a folder."""
    is_glob = bool(_WILDCARDS & set(pattern)) or pattern.lower().endswith(SUFFIXES)
    return (pattern, False) if is_glob else (FileSystems.join(pattern, "**"), True)


def _is_visible(file: Any) -> bool:
    return not os.path.basename(file.path).startswith(".")


def _read_file(file: fileio.ReadableFile) -> Example:
    path = os.fsencode(file.metadata.path).decode("utf-8", "backslashreplace")  # a name on a disk need not be UTF-8
    try:
        with file.open() as opened:
            content = opened.read(MAX_BYTES + 1)
    except OSError as error:
        return path, ImageError(path, f"cannot be read: {error}")
    if len(content) > MAX_BYTES:
        return path, ImageError(path, TOO_LONG)
    return path, content


def _split_row(row: dict[str, Any]) -> Iterator[Any]:
    yield row if FACES in row else beam.pvalue.TaggedOutput(UNREADABLE, row)


def _write_rows(rows: beam.PCollection, prefix: str, name: str) -> beam.PCollection:
    lines = rows | f"{name} as JSON" >> beam.Map(json.dumps)
    return lines | f"Write {name}" >> beam.io.WriteToText(prefix, file_name_suffix=".jsonl")


def _count_row(row: dict[str, Any]) -> dict[str, int]:
    if FACES not in row:
        return {UNREADABLE: 1}
    faces = len(row[FACES])
    return {"answered": 1, "without_a_face": int(not faces), FACES: faces}


def _add_counts(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total = Counter(dict.fromkeys(COUNTS, 0))
    for each in counts:
        total.update(each)
    return dict(total)


def _reconcile_counts(counts: dict[str, int], *_: Any) -> str:
    if counts["photographs"] != counts["answered"] + counts[UNREADABLE]:
        raise RuntimeError(f"answered and unreadable must add up to photographs. Received: {counts}")
    return json.dumps(counts)


def _copy_model(model: str, folder: str) -> str:
    """Copies a model and its calibration from a file system that only Beam can read."""
    parent, name = FileSystems.split(_find_model_file(model))
    for each in {name, BEST_MODEL, CALIBRATION}:
        source = FileSystems.join(parent, each)
        if each == name or FileSystems.exists(source):
            with FileSystems.open(source) as reader, open(os.path.join(folder, each), "wb") as writer:
                shutil.copyfileobj(reader, writer)
    return os.path.join(folder, name)


def _find_model_file(model: str) -> str:
    return model if model.endswith(_MODEL_SUFFIXES) else FileSystems.join(model, BEST_MODEL)


def _check_matches(read: ReadImages) -> None:
    files = FileSystems.match([read.pattern])[0].metadata_list
    if not any(not read.is_folder or _is_visible(file) for file in files):
        raise ValueError(
            "`pattern` (of the script: --images) must be a folder with files, or a glob that matches files. "
            f"Received: pattern={read.pattern!r}"
        )


def _check_model(model: str | None, *, is_local: bool) -> None:
    is_visible = model is not None and (is_local or "://" in model)  # else only the workers can see it
    if model is not None and is_visible and not FileSystems.exists(_find_model_file(model)):
        raise FileNotFoundError(f"There is no trained model at {model}. Give a run, or a .keras or .onnx file.")


def _check_out(out: str) -> None:
    if _WILDCARDS & set(out):  # Beam finds its temporary files by a glob
        raise ValueError(f"`out` must have none of *, ? and [ in its name. Received: out={out!r}")
    if FileSystems.exists(FileSystems.join(out, _COUNTS_FILE)):
        raise ValueError(f"`out` must not contain a finished run; give another folder. Received: out={out!r}")
