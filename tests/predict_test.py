import dataclasses
import pathlib

import keras
import numpy as np
import pytest
from PIL import Image

import agegender as ag
from agegender import predict
from experiments.half_precision import store_in_half_precision

SIZE = 24
STEPS = ag.Calibration(
    coverage=0.9, ages=(0.0, 100.0), low=(0.0, 80.0), high=(10.0, 116.0), temperature=2.0, count=500, flip=True
)


@pytest.fixture
def predictor(tiny_trunk: keras.Model) -> ag.Predictor:
    keras.utils.set_random_seed(2)
    model, random = ag.build_model(tiny_trunk), np.random.default_rng(2)
    for weight in model.trainable_weights:  # new heads answer the same for every picture
        weight.assign(weight + random.normal(scale=0.02, size=weight.shape))
    return ag.Predictor(model, batch_size=2)


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


@pytest.fixture
def calibrated(predictor: ag.Predictor, tmp_path: pathlib.Path) -> ag.Predictor:
    predictor.model.save(tmp_path / "best.keras")
    STEPS.save(tmp_path)
    return ag.Predictor(tmp_path)


def test_a_model_without_a_calibration_gives_no_interval(predictor: ag.Predictor) -> None:
    assert predictor(picture(0))[0].age_interval is None


def test_the_calibration_beside_a_model_gives_intervals_and_probabilities(
    calibrated: ag.Predictor, tmp_path: pathlib.Path
) -> None:
    (plain,) = ag.Predictor(calibrated.model, flip=True)(picture(0))
    for predictor in (calibrated, ag.Predictor(tmp_path / "best.keras")):
        (face,) = predictor(picture(0))
        assert face.age == pytest.approx(plain.age) and face.gender == plain.gender
        assert face.age_interval == pytest.approx((0.8 * plain.age, 10 + 1.06 * plain.age), rel=1e-5)
        odds, calibrated_odds = (p / (1 - p) for p in (plain.p_female, face.p_female))
        assert calibrated_odds == pytest.approx(odds**0.5, rel=1e-5)


@pytest.mark.parametrize("head", ["age", "gender"])
def test_a_calibration_of_one_head_leaves_the_other_as_it_is(
    predictor: ag.Predictor, tmp_path: pathlib.Path, head: str
) -> None:
    predictor.model.save(tmp_path / "best.keras")
    without = {"ages": None, "low": None, "high": None} if head == "gender" else {"temperature": None}
    dataclasses.replace(STEPS, flip=False, **without).save(tmp_path)
    (face,), (plain,) = ag.Predictor(tmp_path)(picture(0)), predictor(picture(0))
    assert (face.age_interval is None) == (head == "gender")
    assert (face.p_female == pytest.approx(plain.p_female)) == (head == "age")


def test_flip_answers_with_the_mean_over_a_picture_and_its_mirror_image(predictor: ag.Predictor) -> None:
    here, there = predictor([picture(0), picture(0)[:, ::-1]])
    (face,) = ag.Predictor(predictor.model, flip=True)(picture(0))
    assert here[0].age != there[0].age
    assert face.age == pytest.approx((here[0].age + there[0].age) / 2, rel=1e-5)
    assert face.p_female == pytest.approx((here[0].p_female + there[0].p_female) / 2, rel=1e-5)


def test_flip_follows_the_calibration_unless_it_is_said(calibrated: ag.Predictor, tmp_path: pathlib.Path) -> None:
    assert calibrated.flip and not ag.Predictor(tmp_path, flip=False).flip
    assert not ag.Predictor(calibrated.model).flip


def test_the_released_model_is_found_in_the_checkout_and_in_the_folder_that_the_environment_names(
    calibrated: ag.Predictor, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AGEGENDER_MODEL", raising=False)
    assert predict._RELEASED.relative_to(pathlib.Path(__file__).parent.parent) == pathlib.Path("models/utkface64")
    monkeypatch.setattr(predict, "_RELEASED", tmp_path)
    expected = calibrated(picture(0))
    assert ag.Predictor()(picture(0)) == expected
    monkeypatch.setattr(predict, "_RELEASED", tmp_path / "none")
    for path in (tmp_path, tmp_path / "best.keras"):
        monkeypatch.setenv("AGEGENDER_MODEL", str(path))
        assert ag.Predictor()(picture(0)) == expected


@pytest.mark.parametrize("named", [False, True])
def test_without_the_released_model_the_words_say_how_to_get_it(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    monkeypatch.setattr(predict, "_RELEASED", tmp_path / "models" / "utkface64")
    monkeypatch.delenv("AGEGENDER_MODEL", raising=False)
    if named:
        monkeypatch.setenv("AGEGENDER_MODEL", str(tmp_path / "gone"))
    with pytest.raises(FileNotFoundError, match=r"copy the folder models/utkface64 .*AGEGENDER_MODEL") as error:
        ag.Predictor()
    assert str(tmp_path / ("gone" if named else "models")) in str(error.value)


def test_a_file_with_float16_weights_gives_a_float32_model_that_predicts_the_same(
    predictor: ag.Predictor, tmp_path: pathlib.Path
) -> None:
    store_in_half_precision(predictor.model, tmp_path / "best.keras")
    predictor.model.save(tmp_path / "full.keras")
    assert (tmp_path / "best.keras").stat().st_size < 0.8 * (tmp_path / "full.keras").stat().st_size
    loaded = ag.Predictor(tmp_path)
    assert {weight.dtype for weight in loaded.model.weights} == {"float32"}
    assert loaded(picture(0))[0].age == pytest.approx(predictor(picture(0))[0].age, rel=0.01)
