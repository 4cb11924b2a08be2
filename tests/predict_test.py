import pathlib

import keras
import numpy as np
import pytest
from PIL import Image

import agegender as ag

SIZE = 24


@pytest.fixture
def predictor(tiny_trunk: keras.Model) -> ag.Predictor:
    keras.utils.set_random_seed(2)
    return ag.Predictor(ag.build_model(tiny_trunk), batch_size=2)


def picture(seed: int, size: tuple[int, int] = (SIZE, SIZE)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype="uint8")


def test_an_array_gives_one_face_that_fills_it(predictor: ag.Predictor) -> None:
    (face,) = predictor(picture(0))
    expected = predictor.model(picture(0)[None])
    assert face.box == (0, 0, SIZE, SIZE)
    assert face.age == pytest.approx(float(expected["age"][0, 0]), rel=1e-5)
    assert face.p_female == pytest.approx(float(expected["gender"][0, 0]), rel=1e-5)
    assert face.gender == ("female" if face.p_female >= 0.5 else "male")


def test_many_pictures_keep_their_order_across_batches(predictor: ag.Predictor) -> None:
    pictures = [picture(seed) for seed in range(5)]
    alone = [predictor(each)[0].age for each in pictures]
    assert [faces[0].age for faces in predictor(pictures)] == pytest.approx(alone, rel=1e-4)
    assert [faces[0].age for faces in predictor(np.stack(pictures))] == pytest.approx(alone, rel=1e-4)


def test_no_pictures_give_no_faces(predictor: ag.Predictor) -> None:
    assert predictor([]) == []


def test_a_file_gives_what_its_pixels_give(predictor: ag.Predictor, tmp_path: pathlib.Path) -> None:
    Image.fromarray(picture(1)).save(tmp_path / "face.png")
    for path in (tmp_path / "face.png", str(tmp_path / "face.png")):
        assert predictor(path)[0].age == pytest.approx(predictor(picture(1))[0].age)


def test_pictures_of_other_sizes_are_resized_and_the_box_is_theirs(predictor: ag.Predictor) -> None:
    assert predictor(picture(2, (40, 60)))[0].box == (0, 0, 60, 40)


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P"])
def test_other_colour_modes_are_read_as_rgb(predictor: ag.Predictor, tmp_path: pathlib.Path, mode: str) -> None:
    suffix = "jpg" if mode == "CMYK" else "png"
    Image.fromarray(picture(3)).convert(mode).save(tmp_path / f"face.{suffix}")
    assert len(predictor(tmp_path / f"face.{suffix}")) == 1


def test_the_model_of_a_run_is_found_by_folder_and_by_file(predictor: ag.Predictor, tmp_path: pathlib.Path) -> None:
    predictor.model.save(tmp_path / "best.keras")
    for path in (tmp_path, str(tmp_path / "best.keras")):
        assert ag.Predictor(path)(picture(0))[0].age == pytest.approx(predictor(picture(0))[0].age)


@pytest.mark.parametrize("path", ["", "nothing", "nothing.keras"])
def test_a_missing_model_is_named(tmp_path: pathlib.Path, path: str) -> None:
    with pytest.raises(FileNotFoundError, match="no trained model at"):
        ag.Predictor(tmp_path / path)


def test_a_missing_picture_is_named(predictor: ag.Predictor, tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no picture at .*gone\.jpg"):
        predictor(tmp_path / "gone.jpg")


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff\xd8\xff\xe0 not really"])
def test_a_file_that_is_no_picture_is_named(predictor: ag.Predictor, tmp_path: pathlib.Path, content: bytes) -> None:
    (tmp_path / "broken.jpg").write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.jpg cannot be read as a picture"):
        predictor(tmp_path / "broken.jpg")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.zeros((4, 4)), r"\[height, width, 3\].*Received: shape=\(4, 4\)"),
        (np.zeros((4, 4, 4)), r"Received: shape"),
        (np.full((4, 4, 3), 256.0), r"0\.\.255"),
        (np.full((4, 4, 3), -1), r"0\.\.255"),
        (np.full((4, 4, 3), np.nan), r"0\.\.255"),
        (np.full((4, 4, 3), 0.5), r"multiply by 255"),
    ],
)
def test_arrays_that_are_no_pictures_are_named(predictor: ag.Predictor, values: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        predictor([values])


def test_a_batch_of_none_is_refused(tiny_trunk: keras.Model) -> None:
    with pytest.raises(ValueError, match="`batch_size` must be 1 or more"):
        ag.Predictor(ag.build_model(tiny_trunk), batch_size=0)
