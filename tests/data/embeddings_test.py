"""Embeddings as targets: the right row for each image, NaN for the others, clear errors."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from agegender import load_utkface
from agegender.data.embeddings import read_embeddings


def write(path: pathlib.Path, **arrays: np.ndarray) -> pathlib.Path:
    np.savez(path, **arrays)
    return path


def test_rows_are_found_by_file_name(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "e.npz", file_name=np.array(["b.jpg", "a.jpg"]), embedding=np.array([[1.0, 0], [3, 4]]))
    found = read_embeddings(path)(tf.constant(["a.jpg", "other.jpg", "b.jpg"])).numpy()
    np.testing.assert_array_equal(found, [[1, 2], [np.nan, np.nan], [-1, -2]])  # minus the mean, [2, 2]
    assert found.dtype == "float32"


@pytest.mark.parametrize("cache", ["bytes", "pixels", None])
def test_training_batches_have_the_embedding_of_each_image(
    prepared: pathlib.Path, tmp_path: pathlib.Path, cache
) -> None:
    options = {"image_size": 24, "data_dir": prepared, "labels": ["file_name"]}
    names = [
        name.decode()
        for _, targets in load_utkface("train", batch_size=16, **options)
        for name in targets["file_name"].numpy()[:, 0]
    ]
    numbers = np.arange(2 * len(names), dtype="float32").reshape(-1, 2)
    path = write(tmp_path / "e.npz", file_name=np.array(names[1:]), embedding=numbers[1:])
    numbers -= numbers[1:].mean(0)
    expected = {name: row.tolist() for name, row in zip(names[1:], numbers[1:], strict=True)}
    batches = load_utkface("train", batch_size=8, training=True, embeddings=path, cache=cache, **options)
    for _, targets in batches.from_step(1).take(batches.steps_per_epoch):
        for name, row in zip(targets["file_name"].numpy()[:, 0], targets["embedding"].numpy(), strict=True):
            if name.decode() == names[0]:
                assert np.isnan(row).all()
            else:
                assert row.tolist() == expected[name.decode()]
    assert "embedding" not in load_utkface("train", batch_size=8, embeddings=path, **options).element_spec[1]


@pytest.mark.parametrize(
    ("arrays", "found"),
    [
        ({"names": np.zeros(1)}, "file_name"),
        ({"file_name": np.array(["a"]), "embedding": np.zeros((2, 4))}, "shapes (1,) and (2, 4)"),
        ({"file_name": np.array(["a"]), "embedding": np.array([[np.nan]])}, "finite numbers"),
    ],
)
def test_other_files_are_refused(tmp_path: pathlib.Path, arrays: dict, found: str) -> None:
    with pytest.raises(ValueError) as error:
        read_embeddings(write(tmp_path / "e.npz", **arrays))
    assert found in str(error.value) and "`embeddings` must" in str(error.value)


def test_no_archive_and_no_file(tmp_path: pathlib.Path) -> None:
    (tmp_path / "e.npz").write_bytes(b"text")
    with pytest.raises(ValueError, match=r"must be a file of `experiments\.embeddings`"):
        read_embeddings(tmp_path / "e.npz")
    with pytest.raises(FileNotFoundError, match=r"python -m experiments\.embeddings"):
        read_embeddings(tmp_path / "none.npz")
