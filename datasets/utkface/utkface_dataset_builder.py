"""The TFDS builder of UTKFace: faces with age, gender and race, in splits that share no photograph."""

import functools
import hashlib
import json
import math
import posixpath
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import app, logging
from numpy.typing import NDArray
from tensorflow_datasets.core import writer
from tensorflow_datasets.core.utils import shard_utils, tqdm_utils

from . import collect, labels, near_duplicates, sources, splits

_LICENSE: Final = (
    "Non-commercial research purposes only. The copyright of the images belongs to their owners; "
    "they may not be copied or published further."
)
_MAX_LISTED: Final = 5  # skipped files in the report for each reason
_LABEL_BYTES: Final = 280  # bytes of an example without its image
_SHARDS: Final = 8
_SMALLEST_SHARD: Final = 64 << 10  # bytes; below it, opening the file would cost more than reading it
_LARGEST_SHARD: Final = 64 << 20  # bytes; TFDS keeps a shard's examples in memory while it writes them

ALIGNED: Final = tfds.core.BuilderConfig(
    name="aligned_cropped", description="One face per image, aligned by landmarks and cropped to 200 x 200 pixels."
)
IN_THE_WILD: Final = tfds.core.BuilderConfig(
    name="in_the_wild", description="The photographs as collected, of any size, sometimes with other people in them."
)


class _Table(NamedTuple):
    """The content of the shards, one row per image."""

    images: collect.Collection
    groups: list[str]
    age_conflicts: list[bool]
    gender_conflicts: list[bool]


class Builder(tfds.core.ShardBasedBuilder):
    """Builds UTKFace from the archives and folders in the manual directory.

    Each of their files becomes an example or is skipped for a stated reason. `builder.info.metadata` counts both and
    lists the skipped files; so does `skipped.json` beside the shards.
    """

    VERSION = tfds.core.Version("3.0.0")
    RELEASE_NOTES: ClassVar = {
        "1.0.0": "Aligned and cropped faces, in three splits by a hash of the file name.",
        "2.0.0": "Splits by photograph group; groups, folds and conflicts as features; in_the_wild.",
        "3.0.0": "The feature `picture` is called `image`; `as_supervised` gives image and gender. Splits as in 2.0.0.",
    }
    BUILDER_CONFIGS: ClassVar = [ALIGNED]  # what a plain `tfds build` builds; `builder_configs` has both
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"""
    Get UTKFace from {sources.HOMEPAGE} and put it into the manual directory: UTKFace.tar.gz, crop_part1.tar.gz, a zip
    of the images, the folder with them or the images themselves; for the config in_the_wild part1.tar.gz to
    part3.tar.gz.
    """

    _table: _Table
    _source_names: list[str]
    _scratch: Path
    _shard_config: "_ShardConfig"
    _max_examples: int | None

    @tfds.core.utils.classproperty
    @classmethod
    def builder_configs(cls) -> dict[str, tfds.core.BuilderConfig]:
        return {config.name: config for config in (ALIGNED, IN_THE_WILD)}

    def _info(self) -> tfds.core.DatasetInfo:
        card = self.get_metadata()  # README.md and CITATIONS.bib
        return _Info(
            builder=self,
            description=card.description,
            citation=card.citation,
            homepage=sources.HOMEPAGE,
            license=_LICENSE,
            features=_features(),
            supervised_keys=("image", "gender"),  # tfds.show_examples can show a class, but no dict
            metadata=tfds.core.MetadataDict(),
        )

    def _download_and_prepare(
        self, dl_manager: tfds.download.DownloadManager, download_config: tfds.download.DownloadConfig
    ) -> None:
        """Writes the shards and skipped.json. TFDS renames the folder to its version once all is done."""
        # A protected method of TFDS 4.9.10: no public one runs around the generation, inside the temporary folder.
        self._shard_config = _ShardConfig(**vars(download_config.get_shard_config()))
        self._max_examples = download_config.max_examples_per_split
        for option, value in (
            ("num_shards", self._shard_config.num_shards),
            ("max_examples_per_split", self._max_examples),
        ):
            if value is not None and value < 1:
                raise ValueError(f"`{option}` must be 1 or more. Received: {option}={value}")
        with tempfile.TemporaryDirectory(dir=self.data_path) as scratch:
            self._scratch = Path(scratch)
            super()._download_and_prepare(dl_manager, download_config)
        skipped = self._table.images.skipped
        listed = [{key: value for key, value in file._asdict().items() if value} for file in skipped]
        self.info.metadata.update(
            seen=len(skipped) + len(self._table.images.paths),
            kept=len(self._table.images.paths),
            skipped=len(skipped),
            skipped_by_reason=dict(sorted(Counter(file.reason for file in skipped).items())),
            skipped_files=listed,
            groups=len(set(self._table.groups)),
            size=self._table.images.size,
            sources=self._source_names,
        )
        (self.data_path / "skipped.json").write_text(json.dumps(listed, indent=1) + "\n")
        del self._table

    def _shard_iterators_per_split(self, dl_manager: tfds.download.DownloadManager) -> dict[str, list[Any]]:
        """Collects and groups the images, and returns for each split one example generator per shard."""
        manual_dir = _manual_dir(dl_manager)
        wild = self.builder_config.name == IN_THE_WILD.name
        found = sources.find_sources(manual_dir, self.builder_config.name)
        images = collect.collect_images(found, self._scratch, parts=wild)
        self._source_names = [source.name for source in found]
        if not images.paths:
            raise ValueError(
                f"No image of UTKFace in {manual_dir} ({', '.join(self._source_names)}). "
                f"Received: {len(images.skipped)} files, skipped: {_format_reasons(images.skipped)}"
            )
        self._table = _group_images(images)
        rows: dict[str, list[int]] = {split: [] for split in labels.SPLITS}
        for row in _shuffle_rows(images.paths):
            rows[splits.split_of(self._table.groups[row])].append(row)
        return {split: self._shard_iterators(split, kept[: self._max_examples]) for split, kept in rows.items() if kept}

    def _shard_iterators(self, split: str, rows: list[int]) -> list[Any]:
        size = int(np.diff(self._table.images.spans[rows]).sum()) + _LABEL_BYTES * len(rows)
        count = self._shard_config.get_number_shards(size, len(rows))
        shards = np.array_split(np.array(rows), count)
        return [
            functools.partial(self._generate_shard, f"{split} {n + 1}/{count}", shard) for n, shard in enumerate(shards)
        ]

    def _generate_shard(self, name: str, rows: NDArray[np.intp]) -> Iterator[tuple[str, dict[str, Any]]]:
        table, images = self._table, self._table.images
        with images.data_file.open("rb") as data:
            for row in tqdm_utils.tqdm(rows, desc=f"Writing {name}", unit=" images", leave=False):
                start, end = images.spans[row]
                data.seek(start)
                file_name = posixpath.basename(images.paths[row])
                yield (
                    file_name,
                    {
                        "image": data.read(end - start),
                        **labels.parse_name(file_name)._asdict(),
                        "file_name": file_name,
                        "group": table.groups[row],
                        "fold": splits.fold_of(table.groups[row]),
                        "age_conflict": table.age_conflicts[row],
                        "gender_conflict": table.gender_conflicts[row],
                    },
                )

    def _example_writer(self) -> writer.ExampleWriter:
        return _DeterministicWriter(file_format=self.info.file_format)

    def _post_download_and_prepare_hook(self) -> None:
        # A warning, because absl shows nothing less outside of the `tfds` command, which prints the whole report.
        logging.warning("%s; listed in %s/skipped.json", _count_files(self.info), self.data_dir)


class _ErrorsWithoutTraceback(app.ExceptionHandler):
    """Prints an error of this builder alone, where it ends a program of absl, such as `tfds build`: exit code 1.

    absl asks its handlers as its last act, and Python then calls `sys.excepthook`.
    """

    def wants(self, exc: Exception) -> bool:
        frames = traceback.walk_tb(exc.__traceback__)
        is_of_builder = any(isinstance(frame.f_locals.get("self"), Builder) for frame, _ in frames)
        return is_of_builder and isinstance(exc, ValueError | OSError | tf.errors.OpError)

    def handle(self, exc: Exception) -> None:
        sys.excepthook = lambda *_: print(f"tfds build utkface: {exc}", file=sys.stderr)


app.install_exception_handler(_ErrorsWithoutTraceback())


def _manual_dir(dl_manager: tfds.download.DownloadManager) -> Path:
    try:
        return Path(dl_manager.manual_dir).absolute()  # an empty --manual_dir is the current folder
    except AssertionError as error:  # TFDS's, for a folder that is missing or empty
        raise FileNotFoundError(" ".join(str(error).split())) from None


def _group_images(images: collect.Collection) -> _Table:
    """Groups the images of the same photograph."""
    pairs = near_duplicates.find_matches(images.thumbnails)
    names = list(images.labels())
    groups = splits.assign_groups([name.stem for name in names], pairs, splits.read_known_groups())
    return _Table(images, groups, *splits.find_conflicts(groups, names))


def _shuffle_rows(paths: Sequence[str]) -> list[int]:
    """Returns the rows in the order of a hash of their file names: no other file changes it."""
    keys = [hashlib.sha256(posixpath.basename(path).encode()).digest() for path in paths]
    return sorted(range(len(paths)), key=keys.__getitem__)


def _features() -> tfds.features.FeaturesDict:
    """Returns the features; schema.py of agegender repeats their keys and codings."""
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(
                shape=(None, None, 3), dtype=np.uint8, encoding_format="jpeg", doc="RGB, the bytes of the file kept."
            ),
            "age": tfds.features.Scalar(
                np.int32,
                doc=tfds.features.Documentation(desc="In years.", value_range=f"{labels.MIN_AGE}..{labels.MAX_AGE}"),
            ),
            "gender": tfds.features.ClassLabel(names=labels.GENDERS),
            "race": tfds.features.ClassLabel(names=labels.RACES),
            "timestamp": tfds.features.Text(doc="When the image was collected, yyyymmddHHMMSSFFF as a rule."),
            "file_name": tfds.features.Text(doc="The name of the file as found, without its folders."),
            "group": tfds.features.Text(doc="Of near-identical images: the name, without extension, of one of them."),
            "fold": tfds.features.Scalar(
                np.int32,
                doc=tfds.features.Documentation(
                    desc="For cross-validation; a group is in one fold, whatever its split.",
                    value_range=f"0..{splits.FOLDS - 1}",
                ),
            ),
            "age_conflict": tfds.features.Scalar(np.bool_, doc="Whether the group's images carry several ages."),
            "gender_conflict": tfds.features.Scalar(np.bool_, doc="Whether the group's images carry both genders."),
        }
    )


class _DeterministicWriter(writer.ExampleWriter):
    """Writes the features of each example in the order of their names.

    TFDS leaves the order to protobuf, which takes another one in every process: shards of the same images would differ.
    """

    def write(self, path: Any, examples: Iterable[tuple[Any, bytes]]) -> Any:
        return super().write(path, ((key, _sort_features(example)) for key, example in examples))


def _sort_features(example: bytes) -> bytes:
    return tf.train.Example.FromString(example).SerializeToString(deterministic=True)


class _ShardConfig(shard_utils.ShardConfig):
    """Eight shards per split, fewer if they would be tiny, more if they would exceed the maximum.

    `num_shards`, `max_shard_size` and `min_shard_size` apply if the user sets them.
    """

    def get_number_shards(self, total_size: int, num_examples: int, uses_precise_sharding: bool = True) -> int:
        if self.num_shards:
            return min(self.num_shards, num_examples)
        total_size += num_examples * self.overhead
        is_default = self.min_shard_size == shard_utils.DEFAULT_MIN_SHARD_SIZE
        most = total_size // (_SMALLEST_SHARD if is_default else self.min_shard_size)
        fewest = math.ceil(total_size / min(self.max_shard_size, _LARGEST_SHARD))
        return min(max(1, fewest, min(_SHARDS, most)), num_examples)


class _Info(tfds.core.DatasetInfo):
    """DatasetInfo that prints the report of the build: `tfds build` ends with it."""

    def __repr__(self) -> str:
        return _format_report(self) if self.metadata else super().__repr__()


def _format_report(info: tfds.core.DatasetInfo) -> str:
    """Returns how many images each split has, and how many files were kept and skipped, and why."""
    report = info.metadata
    skipped = [collect.SkippedFile(**file) for file in report["skipped_files"]]
    sizes = ", ".join(f"{split.num_examples:,} {name}" for name, split in info.splits.items())
    lines = [f"{info.full_name} in {info.data_dir}: {sizes}"]
    lines += [f"  no image falls into {split!r}: too few" for split in labels.SPLITS if split not in info.splits]
    lines += [_count_files(info)]
    lines += [f"  read from {', '.join(report['sources'])}"]
    lines += [f"  {line}" for line in _format_reasons(skipped).splitlines()]
    if any(count > _MAX_LISTED for count in report["skipped_by_reason"].values()):
        lines.append(f"  all of them: {info.data_dir}/skipped.json")
    return "\n".join(lines)


def _count_files(info: tfds.core.DatasetInfo) -> str:
    report = info.metadata
    return f"UTKFace: {report['seen']:,} files seen, {report['kept']:,} kept, {report['skipped']:,} skipped"


def _format_reasons(skipped: Sequence[collect.SkippedFile]) -> str:
    """Returns a line for each reason, with its count and the first files."""
    by_reason: dict[str, list[str]] = {}
    for file in skipped:
        by_reason.setdefault(file.reason, []).append(repr(file.file))
    return "\n".join(
        f"{len(files):,} {reason}: {', '.join(files[:_MAX_LISTED])}{', ...' if len(files) > _MAX_LISTED else ''}"
        for reason, files in sorted(by_reason.items())
    )
