"""UTKFace as a TensorFlow dataset: faces with age, gender and race, in explicit splits and several shards."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Final

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging
from tensorflow_datasets.core import writer
from tensorflow_datasets.core.utils import shard_utils

from . import labels, sources

_LICENSE: Final = (
    "Non-commercial research purposes only. The copyright of the pictures belongs to their owners; "
    "they may not be copied or published further."
)
_TOLD_SKIPPED: Final = 20  # how many skipped files the build names on the terminal
_SHARDS: Final = 8
_SMALLEST_SHARD: Final = 64 << 10  # bytes; below it, opening the file would cost more than reading it


class Builder(tfds.core.GeneratorBasedBuilder):
    """Builds UTKFace from the folder or the archive in the manual directory.

    Every file of the source becomes an example or is skipped for a stated reason. `builder.info.metadata` counts both
    and lists what was skipped; `skipped.json` beside the shards is that list for people.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "Aligned and cropped faces, in three splits by a hash of the file name."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"""
    Get the aligned and cropped faces of UTKFace from {sources.HOMEPAGE} and put them into the manual directory
    in one of these forms: {", ".join(sources.ARCHIVES)}, the folder {" or ".join(sources.FOLDERS)} that they hold,
    or the pictures directly.
    """

    _seen: int = 0
    _skipped: list[tuple[str, str]]

    def _info(self) -> tfds.core.DatasetInfo:
        card = self.get_metadata()  # README.md and CITATIONS.bib
        return _Info(
            builder=self,
            description=card.description,
            citation=card.citation,
            homepage=sources.HOMEPAGE,
            license=_LICENSE,
            features=_features(),
            supervised_keys=("picture", {"age": "age", "gender": "gender"}),
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[tuple[str, Any]]]:
        """Goes through the names once, for the splits; each split then reads its own pictures."""
        source = sources.find_source(Path(dl_manager.manual_dir))
        paths = sorted(path for path, _ in source.files())
        wanted, self._skipped = _sort_into_splits(paths)
        self._seen = len(paths)
        for split, pictures in wanted.items():
            if not pictures:
                raise ValueError(
                    f"Split {split!r} would be empty: too few pictures. "
                    f"Received: {len(paths)} files in {source.path}, {len(self._skipped)} of them not to be used."
                )
        return {split: self._generate_examples(source, pictures) for split, pictures in wanted.items()}

    def _generate_examples(self, source: sources.Source, wanted: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields the pictures at the wanted paths, keyed by file name; notes those that do not decode as skipped."""
        missing = set(wanted)
        for path, read in source.files():
            if path not in missing:
                continue
            missing.remove(path)
            try:
                example = _example(PurePosixPath(path).name, read())
            except labels.Skipped as reason:
                self._skipped.append((path, str(reason)))
            else:
                yield example["file_name"], example
        if missing:
            raise ValueError(f"{source.path} changed while it was read: {min(missing)!r} is gone. Build again.")

    def _download_and_prepare(
        self, dl_manager: tfds.download.DownloadManager, download_config: tfds.download.DownloadConfig
    ) -> None:
        """Generates the splits in several shards, then writes down what was skipped."""
        self._skipped = []
        super()._download_and_prepare(dl_manager, _SeveralShards(**vars(download_config)))
        skipped = sorted(self._skipped)
        self.info.metadata.update(
            seen=self._seen,
            kept=sum(split.num_examples for split in self.info.splits.values()),
            skipped=len(skipped),
            skipped_by_reason=dict(sorted(Counter(reason for _, reason in skipped).items())),
            skipped_files=[{"file": path, "reason": reason} for path, reason in skipped],
        )
        listed = json.dumps(self.info.metadata["skipped_files"], indent=1)
        (self.data_path / "skipped.json").write_text(listed + "\n")

    def _example_writer(self) -> writer.ExampleWriter:
        return _SameBytesWriter(file_format=self.info.file_format)

    def _post_download_and_prepare_hook(self) -> None:
        # A warning, for absl shows nothing less outside of the `tfds` command; that one prints the info and the names.
        logging.warning("%s; listed in %s/skipped.json", _report(self.info).splitlines()[0], self.data_dir)


def _features() -> tfds.features.FeaturesDict:
    """Returns the features; schema.py of agegender repeats their keys and codings."""
    return tfds.features.FeaturesDict(
        {
            "picture": tfds.features.Image(
                shape=(None, None, 3), dtype=np.uint8, encoding_format="jpeg", doc="RGB, the bytes of the file kept."
            ),
            "age": tfds.features.Scalar(
                np.int32,
                doc=tfds.features.Documentation(desc="In years.", value_range=f"{labels.MIN_AGE}..{labels.MAX_AGE}"),
            ),
            "gender": tfds.features.ClassLabel(names=labels.GENDERS),
            "race": tfds.features.ClassLabel(names=labels.RACES),
            "timestamp": tfds.features.Text(doc="When the picture was collected, yyyymmddHHMMSSFFF as a rule."),
            "file_name": tfds.features.Text(doc="The name of the file as found, without its folders."),
        }
    )


def _sort_into_splits(paths: list[str]) -> tuple[dict[str, set[str]], list[tuple[str, str]]]:
    """Returns the paths of each split, and the paths whose names make them unusable with the reason."""
    wanted: dict[str, set[str]] = {split: set() for split in labels.SPLITS}
    skipped = []
    names = set()
    for path in paths:
        name = PurePosixPath(path).name
        try:
            if name in names:
                raise labels.Skipped("the same file name as another picture")
            wanted[labels.split_of(labels.parse_name(name))].add(path)
            names.add(name)
        except labels.Skipped as reason:
            skipped.append((path, str(reason)))
    return wanted, skipped


def _example(name: str, content: bytes) -> dict[str, Any]:
    """Returns the example of a picture.

    Raises:
        labels.Skipped: if the bytes are not a JPEG picture that decodes to RGB.
    """
    _check_decodes(content)
    return {"picture": content, "file_name": name, **labels.parse_name(name)._asdict()}


def _check_decodes(content: bytes) -> None:
    """Decodes with what training decodes with, so that no picture can stop an epoch. Grey and CMYK become RGB there."""
    if not content:
        raise labels.Skipped("an empty file")
    if not content.startswith(b"\xff\xd8\xff"):
        raise labels.Skipped("not JPEG inside")
    try:
        tf.io.decode_jpeg(content, channels=3)
    except tf.errors.InvalidArgumentError:
        raise labels.Skipped("a JPEG that does not decode, damaged or cut short") from None


class _SameBytesWriter(writer.ExampleWriter):
    """Writes each example with its features in the order of their names.

    TFDS leaves the order to protobuf, which takes another one in every process: the same pictures would make shards
    that differ in their bytes.
    """

    def write(self, path: Any, examples: Iterable[tuple[Any, bytes]]) -> Any:
        return super().write(path, ((key, _in_order(example)) for key, example in examples))


def _in_order(example: bytes) -> bytes:
    return tf.train.Example.FromString(example).SerializeToString(deterministic=True)


class _SeveralShards(tfds.download.DownloadConfig):
    """The user's configuration, with `_ShardConfig` for the shards: TFDS would make one of up to 64 MiB a split."""

    def get_shard_config(self) -> shard_utils.ShardConfig:
        return _ShardConfig(**vars(super().get_shard_config()))


class _ShardConfig(shard_utils.ShardConfig):
    """Eight shards a split, less where they would be tiny, more where they would pass the maximum.

    `num_shards`, `max_shard_size` and `min_shard_size` hold where the user set them. (TFDS 4.9.10 itself looks at the
    two sizes only as class attributes, so that setting them does nothing there.)
    """

    def get_number_shards(self, total_size: int, num_examples: int, uses_precise_sharding: bool = True) -> int:
        if self.num_shards:
            return min(self.num_shards, num_examples)
        total_size += num_examples * self.overhead
        is_default = self.min_shard_size == shard_utils.DEFAULT_MIN_SHARD_SIZE
        most = total_size // (_SMALLEST_SHARD if is_default else self.min_shard_size)
        fewest = math.ceil(total_size / self.max_shard_size)
        return min(max(1, fewest, min(_SHARDS, most)), num_examples)


class _Info(tfds.core.DatasetInfo):
    """DatasetInfo that ends in what was skipped, for its `repr` makes the last lines of `tfds build`."""

    def __repr__(self) -> str:
        return f"{super().__repr__()}\n\n{_report(self)}" if self.metadata else super().__repr__()


def _report(info: tfds.core.DatasetInfo) -> str:
    """Returns in words how many files were seen, kept and skipped, and which were skipped and why."""
    report = info.metadata
    lines = [f"UTKFace: {report['seen']:,} files seen, {report['kept']:,} kept, {report['skipped']:,} skipped"]
    lines += [f"  {skipped['file']!r}: {skipped['reason']}" for skipped in report["skipped_files"][:_TOLD_SKIPPED]]
    if report["skipped"] > _TOLD_SKIPPED:
        lines.append(f"  and {report['skipped'] - _TOLD_SKIPPED:,} more in {info.data_dir}/skipped.json")
    return "\n".join(lines)
