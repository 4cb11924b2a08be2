"""A data set as the builder of `datasets/utkface` prepares it, with the labels, groups and folds that a test wants."""

import io
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from agegender import schema

FEATURES = {
    schema.IMAGE: tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
    schema.AGE: tfds.features.Scalar(np.int32),
    schema.GENDER: tfds.features.ClassLabel(names=schema.GENDERS),
    schema.RACE: tfds.features.ClassLabel(names=schema.RACES),
    schema.FILE_NAME: tfds.features.Text(),
    schema.GROUP: tfds.features.Text(),
    schema.FOLD: tfds.features.Scalar(np.int32),
    schema.AGE_CONFLICT: tfds.features.Scalar(np.bool_),
    schema.GENDER_CONFLICT: tfds.features.Scalar(np.bool_),
}

with tfds.core.registered.skip_registration():  # the real builder has this name

    class Utkface(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("9.9.9")
        BUILDER_CONFIGS = (tfds.core.BuilderConfig(name="aligned_cropped"),)
        rows: dict[str, list[dict[str, Any]]]
        features: dict[str, Any]

        def _info(self) -> tfds.core.DatasetInfo:
            features, metadata = tfds.features.FeaturesDict(self.features), tfds.core.MetadataDict()
            return tfds.core.DatasetInfo(builder=self, features=features, metadata=metadata)

        def _split_generators(self, _: Any) -> dict[str, Any]:
            kept = sum(map(len, self.rows.values()))
            self.info.metadata.update(seen=kept + 2, kept=kept, skipped=2, skipped_by_reason={"an empty file": 2})
            return {split: self._generate_examples(rows) for split, rows in self.rows.items()}

        def _generate_examples(self, rows: Sequence[dict]) -> Iterable[tuple[str, dict]]:
            for row in rows:
                yield row[schema.FILE_NAME], {key: row[key] for key in self.features}


def prepare(
    folder: pathlib.Path, rows: Mapping[str, Sequence[Mapping[str, Any]]], *, without: Iterable[str] = ()
) -> pathlib.Path:
    """Prepares a data set of 24-pixel images and returns its folder.

    Args:
        folder: for it.
        rows: for each split the labels of its images; missing labels are 0, each image its own group, no conflict.
        without: features that it shall not have, as if an older builder had prepared it.
    """
    full = {split: [_row(split, index, row) for index, row in enumerate(given)] for split, given in rows.items()}
    features = {key: feature for key, feature in FEATURES.items() if key not in set(without)}
    with tfds.core.registered.skip_registration():
        builder = type("Utkface", (Utkface,), {"rows": full, "features": features})(data_dir=folder)
    builder.download_and_prepare()
    return folder


def _row(split: str, index: int, given: Mapping[str, Any]) -> dict[str, Any]:
    row = dict.fromkeys((schema.AGE, schema.GENDER, schema.RACE, schema.FOLD), 0) | dict(given)
    name = f"{row[schema.AGE]}_{row[schema.GENDER]}_{row[schema.RACE]}_{split}{index}.jpg.chip.jpg"
    conflicts = {schema.AGE_CONFLICT: False, schema.GENDER_CONFLICT: False}
    return {schema.FILE_NAME: name, schema.GROUP: name, schema.IMAGE: make_image(index), **conflicts, **row}


def make_image(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), np.uint8)
    Image.fromarray(pixels).save(file := io.BytesIO(), format="JPEG")
    return file.getvalue()
