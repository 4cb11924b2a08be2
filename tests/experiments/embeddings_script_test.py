"""dlib's numbers for drawn faces, and the file of them."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from tiny_utkface import make_image, prepare

from agegender import schema
from agegender.data.embeddings import read_embeddings
from agegender.synthetic.faces import draw_face
from experiments import embeddings


@pytest.fixture(scope="module")
def recogniser():
    pytest.importorskip("dlib")
    return embeddings.load_recogniser()


def test_a_person_at_two_sizes_is_nearer_than_another_person(recogniser) -> None:
    (one, small), (other, _) = (
        [recogniser(draw_face(30, gender, 2, seed=seed, size=size)) for size in (200, 64)]
        for gender, seed in ((0, 1), (1, 2))
    )
    assert one.shape == (128,) and one.dtype == "float32"
    assert np.linalg.norm(one - small) < 0.8 * np.linalg.norm(one - other)


def test_the_last_data_set_counts(tmp_path: pathlib.Path, recogniser, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare(tmp_path / "1", {"train": [{"age": 20}, {"age": 30}], "test": [{"age": 40}]})
    second = prepare(tmp_path / "2", {"train": [{"age": 20, schema.IMAGE: make_image(7)}]})
    values = type("Flags", (), {"data_dir": [str(first), str(second)], "out": str(tmp_path / "e.npz")})
    monkeypatch.setattr(flags, "FLAGS", values)
    embeddings.main([])
    with np.load(tmp_path / "e.npz") as file:
        names, numbers = file["file_name"].tolist(), file["embedding"]
    both = [dict(embeddings.embed_dataset(str(folder), 200, recogniser)) for folder in (first, second)]
    expected = both[0] | both[1]
    assert names == list(expected) and len(names) == 3  # one is in both
    np.testing.assert_array_equal(numbers, list(expected.values()))
    assert read_embeddings(tmp_path / "e.npz")(tf.constant(names)).shape == (len(names), 128)
