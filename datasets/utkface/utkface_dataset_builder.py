"""UTKFace as a TensorFlow dataset: faces with age, gender and race, in splits without leaks and several shards."""

import functools
import hashlib
import json
import math
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging
from numpy.typing import NDArray
from tensorflow_datasets.core import writer
from tensorflow_datasets.core.utils import shard_utils, tqdm_utils

from . import intake, labels, near_duplicates, sources, splits

_LICENSE: Final = (
    "Non-commercial research purposes only. The copyright of the images belongs to their owners; "
    "they may not be copied or published further."
)
_TOLD: Final = 5  # how many files the build names for each reason to skip one
_BYTES_BESIDE: Final = 280  # bytes of an example beside its image
_SHARDS: Final = 8
_SMALLEST_SHARD: Final = 64 << 10  # bytes; below it, opening the file would cost more than reading it
_LARGEST_SHARD: Final = 64 << 20  # bytes; TFDS holds a shard's examples in memory while it writes them

ALIGNED: Final = tfds.core.BuilderConfig(
    name="aligned_cropped", description="One face a image, aligned by landmarks and cropped to 200 x 200 pixels."
)
IN_THE_WILD: Final = tfds.core.BuilderConfig(
    name="in_the_wild", description="The photographs as collected, of any size, sometimes with other people in them."
)


class _Table(NamedTuple):
    """What goes into the shards, a row a image: `intake` has its bytes and its name."""

    intake: intake.Intake
    groups: list[str]
    age_conflicts: list[bool]
    gender_conflicts: list[bool]


class Builder(tfds.core.ShardBasedBuilder):
    """Builds UTKFace from whatever form of it lies in the manual directory.

    Every file of the source becomes an example or is skipped for a stated reason. `builder.info.metadata` counts both
    and lists what was skipped; `skipped.json` beside the shards is that list for people.
    """

    VERSION = tfds.core.Version("2.0.0")
    RELEASE_NOTES: ClassVar = {
        "1.0.0": "Aligned and cropped faces, in three splits by a hash of the file name.",
        "2.0.0": "Splits by photograph group; groups, folds and conflicts as features; in_the_wild.",
    }
    BUILDER_CONFIGS: ClassVar = [ALIGNED]  # what a plain `tfds build` builds; `builder_configs` has the other too
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"""
    Get UTKFace from {sources.HOMEPAGE} and put it into the manual directory in any form: UTKFace.tar.gz,
    crop_part1.tar.gz, a zip of the images, the folder that they come in or the images directly;
    for the config in_the_wild part1.tar.gz to part3.tar.gz.
    """

    _table: _Table
    _forms: list[str]
    _scratch: Path
    _shard_config: "_ShardConfig"
    _most_examples: int | None

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
            supervised_keys=("image", {"age": "age", "gender": "gender"}),
            metadata=tfds.core.MetadataDict(),
        )

    def _download_and_prepare(
        self, dl_manager: tfds.download.DownloadManager, download_config: tfds.download.DownloadConfig
    ) -> None:
        """Writes the shards, then what was skipped, into a folder that gets its name only once all is done."""
        self._shard_config = _ShardConfig(**vars(download_config.get_shard_config()))
        self._most_examples = download_config.max_examples_per_split
        with tempfile.TemporaryDirectory(dir=self.data_path) as scratch:
            self._scratch = Path(scratch)
            super()._download_and_prepare(dl_manager, download_config)
        skipped = self._table.intake.skipped
        listed = [{key: value for key, value in file._asdict().items() if value} for file in skipped]
        self.info.metadata.update(
            seen=len(skipped) + len(self._table.intake.paths),
            kept=len(self._table.intake.paths),
            skipped=len(skipped),
            skipped_by_reason=dict(sorted(Counter(file.reason for file in skipped).items())),
            skipped_files=listed,
            groups=len(set(self._table.groups)),
            size=self._table.intake.size,
            forms=self._forms,
        )
        (self.data_path / "skipped.json").write_text(json.dumps(listed, indent=1) + "\n")
        del self._table

    def _shard_iterators_per_split(self, dl_manager: tfds.download.DownloadManager) -> dict[str, list[Any]]:
        """Takes the source in, groups it, and returns for each split what generates the examples of each shard."""
        manual_dir = Path(dl_manager.manual_dir)
        wild = self.builder_config.name == IN_THE_WILD.name
        forms = sources.find_forms(manual_dir, self.builder_config.name)
        taken = intake.take_in(forms, self._scratch, parts=wild)
        self._forms = [form.name for form in forms]
        if not taken.paths:
            raise ValueError(
                f"No image of UTKFace in {manual_dir} ({', '.join(self._forms)}). "
                f"Received: {len(taken.skipped)} files, skipped: {_reasons(taken.skipped)}"
            )
        self._table = _tabulate(taken)
        rows: dict[str, list[int]] = {split: [] for split in labels.SPLITS}
        for row in _shuffled(taken.paths):
            rows[splits.split_of(self._table.groups[row])].append(row)
        return {split: self._shards(split, kept[: self._most_examples]) for split, kept in rows.items() if kept}

    def _shards(self, split: str, rows: list[int]) -> list[Any]:
        size = int(np.diff(self._table.intake.spans[rows]).sum()) + _BYTES_BESIDE * len(rows)
        count = self._shard_config.get_number_shards(size, len(rows))
        shards = np.array_split(np.array(rows), count)
        return [functools.partial(self._examples, f"{split} {n + 1}/{count}", shard) for n, shard in enumerate(shards)]

    def _examples(self, name: str, rows: NDArray[np.intp]) -> Iterator[tuple[str, dict[str, Any]]]:
        taken, table = self._table.intake, self._table
        with taken.images.open("rb") as images:
            for row in tqdm_utils.tqdm(rows, desc=f"Writing {name}", unit=" images", leave=False):
                start, end = taken.spans[row]
                images.seek(start)
                file_name = intake.file_name(taken.paths[row])
                yield (
                    file_name,
                    {
                        "image": images.read(end - start),
                        **labels.parse_name(file_name)._asdict(),
                        "file_name": file_name,
                        "group": table.groups[row],
                        "fold": splits.fold_of(table.groups[row]),
                        "age_conflict": table.age_conflicts[row],
                        "gender_conflict": table.gender_conflicts[row],
                    },
                )

    def _example_writer(self) -> writer.ExampleWriter:
        return _SameBytesWriter(file_format=self.info.file_format)

    def _post_download_and_prepare_hook(self) -> None:
        # A warning, for absl shows nothing less outside of the `tfds` command; that one prints the info and the names.
        logging.warning("%s; listed in %s/skipped.json", _report(self.info).splitlines()[0], self.data_dir)


def _tabulate(taken: intake.Intake) -> _Table:
    """Groups the images that show the same photograph."""
    pairs = near_duplicates.same_photograph(taken.thumbnails)
    named = list(taken.labels())
    groups = splits.groups([label.stem for label in named], pairs, splits.read_table())
    return _Table(taken, groups, *splits.conflicts(groups, named))


def _shuffled(paths: Sequence[str]) -> list[int]:
    """Returns the rows in the order of a hash of the file names, which no other file changes."""
    keys = [hashlib.sha256(intake.file_name(path).encode()).digest() for path in paths]
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


class _SameBytesWriter(writer.ExampleWriter):
    """Writes each example with its features in the order of their names.

    TFDS leaves the order to protobuf, which takes another one in every process: the same images would make shards
    that differ in their bytes.
    """

    def write(self, path: Any, examples: Iterable[tuple[Any, bytes]]) -> Any:
        return super().write(path, ((key, _in_order(example)) for key, example in examples))


def _in_order(example: bytes) -> bytes:
    return tf.train.Example.FromString(example).SerializeToString(deterministic=True)


class _ShardConfig(shard_utils.ShardConfig):
    """Eight shards a split, less where they would be tiny, more where they would pass the maximum.

    `num_shards`, `max_shard_size` and `min_shard_size` hold where the user set them.
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
    """DatasetInfo that ends in what was skipped, for its `repr` makes the last lines of `tfds build`."""

    def __repr__(self) -> str:
        return f"{super().__repr__()}\n\n{_report(self)}" if self.metadata else super().__repr__()


def _report(info: tfds.core.DatasetInfo) -> str:
    """Returns in words how many files were seen, kept and skipped, and which were skipped and why."""
    report = info.metadata
    refused = [intake.Refused(**file) for file in report["skipped_files"]]
    lines = [f"UTKFace: {report['seen']:,} files seen, {report['kept']:,} kept, {report['skipped']:,} skipped"]
    lines += [f"  read from {', '.join(report['forms'])}"]
    lines += [f"  no image falls into {split!r}: too few" for split in labels.SPLITS if split not in info.splits]
    lines += [f"  {line}" for line in _reasons(refused).splitlines()]
    if any(count > _TOLD for count in report["skipped_by_reason"].values()):
        lines.append(f"  all of them: {info.data_dir}/skipped.json")
    return "\n".join(lines)


def _reasons(refused: Sequence[intake.Refused]) -> str:
    """Returns a line for each reason with its count and the first files."""
    by_reason: dict[str, list[str]] = {}
    for file in refused:
        by_reason.setdefault(file.reason, []).append(repr(file.file))
    return "\n".join(
        f"{len(files):,} {reason}: {', '.join(files[:_TOLD])}{', ...' if len(files) > _TOLD else ''}"
        for reason, files in sorted(by_reason.items())
    )
