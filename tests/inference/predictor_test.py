import dataclasses
import io
import itertools
import pathlib
import types
from collections.abc import Iterator

import keras
import numpy as np
import pytest
from PIL import Image

import agegender as ag
from agegender.evaluation.evaluate import predict_dataset
from agegender.export.serving_model import build_serving_model
from agegender.inference.alignment import TEMPLATE, align_face
from agegender.inference.detection import Detection
from agegender.inference.predictor import _enlarges, _note
from experiments.release import save_half_precision

SIZE = 24
STEPS = ag.Calibration(
    coverage=0.9, ages=(0.0, 100.0), low=(0.0, 80.0), high=(10.0, 116.0), temperature=2.0, count=500, flip=True
)


@pytest.fixture
def predictor(tiny_trunk: keras.Model) -> ag.Predictor:
    keras.utils.set_random_seed(2)
    model, random = ag.build_model(tiny_trunk), np.random.default_rng(2)
    for weight in model.trainable_weights:  # new heads answer the same for every image
        weight.assign(weight + random.normal(scale=0.02, size=weight.shape))
    return ag.Predictor(model, batch_size=2, aligned=True)


def image(seed: int, size: tuple[int, int] = (SIZE, SIZE)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype="uint8")


def test_an_array_gives_one_face_that_fills_it(predictor: ag.Predictor) -> None:
    (face,) = predictor(image(0))
    expected = predictor.model(image(0)[None])
    assert face.box == (0, 0, SIZE, SIZE)
    assert face.age == pytest.approx(float(expected["age"][0, 0]), rel=1e-5)
    assert face.p_female == pytest.approx(float(expected["gender"][0, 0]), rel=1e-5)
    assert face.gender == ("female" if face.p_female >= 0.5 else "male")


def test_many_images_keep_their_order_across_batches(predictor: ag.Predictor) -> None:
    images = [image(seed) for seed in range(5)]
    alone = [predictor(each)[0].age for each in images]
    assert [faces[0].age for faces in predictor(images)] == pytest.approx(alone, rel=1e-4)
    assert [faces[0].age for faces in predictor(np.stack(images))] == pytest.approx(alone, rel=1e-4)
    assert predictor([]) == []


def test_one_list_or_buffer_is_one_image(predictor: ag.Predictor, tmp_path: pathlib.Path) -> None:
    pixels = image(1)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    expected = predictor(pixels)
    for given in (pixels.tolist(), memoryview((tmp_path / "a.png").read_bytes()), tmp_path / "a.png"):
        assert predictor(given) == expected
    with pytest.raises(ag.ImageError, match=r"Received: shape=\(2,\)"):
        predictor([1, 2])
    with pytest.raises(ValueError, match=r"`faces` must be the faces of one photograph\. Received: \[1\]"):
        predictor.draw(pixels, [1])


def test_intervals_hold_only_with_the_flip_of_their_calibration(calibrated: ag.Predictor) -> None:
    assert calibrated(image(0))[0].age_interval is not None
    calibrated.flip = not calibrated.flip
    assert calibrated(image(0))[0].age_interval is None


def test_box_is_in_pixels_of_the_original_image(predictor: ag.Predictor) -> None:
    assert predictor(image(2, (40, 60)))[0].box == (0, 0, 60, 40)


def test_one_image_that_cannot_be_used_is_an_error(predictor: ag.Predictor, tmp_path: pathlib.Path) -> None:
    for aligned in (False, True):
        with pytest.raises(ag.ImageError, match=r"gone\.jpg: there is no such file"):
            predictor(tmp_path / "gone.jpg", aligned=aligned)


def test_tensors_and_open_files_are_images(predictor: ag.Predictor, tmp_path: pathlib.Path) -> None:
    import tensorflow as tf

    Image.fromarray(image(1)).save(tmp_path / "face.png")
    expected = predictor(image(1))[0].age
    assert predictor(tf.constant(image(1)))[0].age == pytest.approx(expected)
    assert [faces[0].age for faces in predictor(tf.constant(image(1)[None]))] == pytest.approx([expected])
    with open(tmp_path / "face.png", "rb") as file:
        photograph = predictor(file)
    assert photograph[0].age == pytest.approx(expected) and photograph.source.endswith("face.png")
    assert predictor(io.BytesIO((tmp_path / "face.png").read_bytes()))[0].age == pytest.approx(expected)


def test_a_stream_takes_what_a_call_takes(predictor: ag.Predictor, tmp_path: pathlib.Path) -> None:
    for name in ("a.png", "b.png"):
        Image.fromarray(image(1)).save(tmp_path / name)
    for given, count in ((tmp_path, 2), (str(tmp_path / "*.png"), 2), (str(tmp_path / "a.png"), 1), (image(1), 1)):
        assert len(list(predictor.stream(given))) == count
    for given in (None, 5, {"a.jpg": 1}):
        with pytest.raises(ag.ImageError, match="is neither an image nor a sequence of images"):
            predictor.stream(given)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 0}, "`batch_size` must be a whole number, 1 or more. Received: batch_size=0"),
        ({"batch_size": "64"}, "`batch_size` must be a whole number, 1 or more. Received: batch_size='64'"),
        ({"flip": np.array([True, False])}, "`flip` must be True, False or None. Received: flip=array"),
        ({"aligned": "no"}, "`aligned` must be True, False or None. Received: aligned='no'"),
        ({"bgr": 3}, "`bgr` must be True or False. Received: bgr=3"),
        ({"flip": 2}, "`flip` must be .*Received: flip=2"),
    ],
)
def test_a_wrong_option_is_refused(tiny_trunk: keras.Model, options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ag.Predictor(ag.build_model(tiny_trunk), **options)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (5, "`model` must be a Keras model, an .onnx or .keras file or the folder of a run. Received: 5"),
        (keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)], name="theirs"), "from `build_model`.*'theirs'"),
    ],
)
def test_what_is_no_model_of_this_library_is_refused(model: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ag.Predictor(model)


@pytest.mark.parametrize(
    ("size", "note"),
    [
        ((40, 50), None),
        ((40, 51), "not square: 51 x 40 pixels"),
        ((51, 40), "not square: 40 x 51 pixels"),
        ((39, 48), "small: 39 pixels, below 40"),
        ((39, 60), "small: 39 pixels, below 40, not square: 60 x 39 pixels"),
    ],
)
def test_an_aligned_image_is_judged_by_its_shorter_side(
    predictor: ag.Predictor, size: tuple[int, int], note: str | None
) -> None:
    assert predictor(image(2, size))[0].note == note


def test_age_outside_the_table_uses_the_nearest_row(tiny_trunk: keras.Model) -> None:
    model = ag.build_model(tiny_trunk)
    for bias, age in ((-9.0, 0.0), (9.0, 116.0)):
        model.get_layer("age_deviations").bias.assign([bias])
        assert ag.Predictor(model, aligned=True)(image(0))[0].age == age
        assert float(build_serving_model(model)(image(0)[None])["age"][0, 0]) == age
        _, outputs = predict_dataset(model, [(image(0)[None], {"age": [[30.0]], "gender": [[1.0]]})])
        assert outputs["age"] == [age]


@pytest.fixture
def calibrated(predictor: ag.Predictor, tmp_path: pathlib.Path) -> ag.Predictor:
    predictor.model.save(tmp_path / "best.keras")
    STEPS.save(tmp_path)
    return ag.Predictor(tmp_path, aligned=True)


def test_calibration_file_gives_intervals_and_probabilities(calibrated: ag.Predictor, tmp_path: pathlib.Path) -> None:
    (plain,) = ag.Predictor(calibrated.model, flip=True)(image(0), aligned=True)
    assert plain.age_interval is None
    for predictor in (calibrated, ag.Predictor(tmp_path / "best.keras", aligned=True)):
        (face,) = predictor(image(0))
        assert face.age == pytest.approx(plain.age) and face.gender == plain.gender
        assert face.age_interval == pytest.approx((0.8 * plain.age, 10 + 1.06 * plain.age), rel=1e-5)
        odds, calibrated_odds = (p / (1 - p) for p in (plain.p_female, face.p_female))
        assert calibrated_odds == pytest.approx(odds**0.5, rel=1e-5)


@pytest.mark.parametrize("head", ["age", "gender"])
def test_calibration_of_one_head(predictor: ag.Predictor, tmp_path: pathlib.Path, head: str) -> None:
    predictor.model.save(tmp_path / "best.keras")
    without = {"ages": None, "low": None, "high": None} if head == "gender" else {"temperature": None}
    dataclasses.replace(STEPS, flip=False, **without).save(tmp_path)
    (face,), (plain,) = ag.Predictor(tmp_path)(image(0), aligned=True), predictor(image(0))
    assert (face.age_interval is None) == (head == "gender")
    assert (face.p_female == pytest.approx(plain.p_female)) == (head == "age")


def test_flip_averages_over_the_mirror_image(predictor: ag.Predictor) -> None:
    here, there = predictor([image(0), image(0)[:, ::-1]])
    (face,) = ag.Predictor(predictor.model, flip=True)(image(0), aligned=True)
    assert here[0].age != there[0].age
    assert face.age == pytest.approx((here[0].age + there[0].age) / 2, rel=1e-5)
    assert face.p_female == pytest.approx((here[0].p_female + there[0].p_female) / 2, rel=1e-5)


def test_default_finds_every_face(tiny_trunk: keras.Model) -> None:
    predictor = ag.Predictor(ag.build_model(tiny_trunk))
    assert (predictor.batch_size, predictor.flip, predictor.aligned) == (64, False, False)
    assert predictor.calibration is None and predictor.detector.min_face == 40


def test_flip_follows_the_calibration_unless_it_is_said(calibrated: ag.Predictor, tmp_path: pathlib.Path) -> None:
    assert calibrated.flip and not ag.Predictor(tmp_path, flip=False).flip
    assert not ag.Predictor(calibrated.model).flip


def test_float16_file_loads_as_equal_float32_model(predictor: ag.Predictor, tmp_path: pathlib.Path) -> None:
    save_half_precision(predictor.model, tmp_path / "best.keras")
    predictor.model.save(tmp_path / "full.keras")
    assert (tmp_path / "best.keras").stat().st_size < 0.8 * (tmp_path / "full.keras").stat().st_size
    loaded = ag.Predictor(tmp_path, aligned=True)
    assert {weight.dtype for weight in loaded.model.weights} == {"float32"}
    assert loaded(image(0))[0].age == pytest.approx(predictor(image(0))[0].age, rel=0.01)


# From here on with photographs, in which faces are found.


@pytest.fixture
def finder(predictor: ag.Predictor) -> ag.Predictor:
    return ag.Predictor(predictor.model, batch_size=3)


def test_each_face_has_its_box_and_prediction(finder: ag.Predictor, couple: np.ndarray) -> None:
    faces = finder(couple)
    assert len(faces) == 2 and faces.size == (360, 200)
    for face, left in zip(faces, (40, 200), strict=True):
        assert left - 20 < face.box[0] < face.box[2] < left + 140
        assert len(face.landmarks) == 5 and 0.8 < face.score <= 1 and face.note is None
        aligned = align_face(Image.fromarray(couple), face.landmarks)
        (again,) = finder(aligned.resize((SIZE, SIZE), Image.Resampling.LANCZOS), aligned=True)
        assert face.age == pytest.approx(again.age, rel=1e-5)
        assert face.p_female == pytest.approx(again.p_female, rel=1e-5)
    assert faces[0].age != faces[1].age


def test_photograph_without_faces_gives_empty_list(finder: ag.Predictor) -> None:
    for empty in (np.full((90, 120, 3), 128, "uint8"), image(0), np.zeros((1, 1, 3), "uint8")):
        assert finder(empty) == [] and finder(empty).size == empty.shape[1::-1]


def test_faces_of_many_photographs_share_batches(
    finder: ag.Predictor, couple: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agegender.inference.predictor._MAX_WAIT", 1e9)  # seconds, of a machine that is busy
    one, none = couple[:, :180], np.full_like(couple, 128)
    sizes = []
    finder.model.predict_on_batch, predict = (
        lambda batch: (sizes.append(len(batch)), predict(batch))[1],
        (finder.model.predict_on_batch),
    )
    answers = finder([couple, none, one, b"no image", couple, one])
    assert [len(answer) if isinstance(answer, list) else None for answer in answers] == [2, 0, 1, None, 2, 1]
    assert sizes == [3, 3]  # six faces by threes
    assert answers[2][0].age == pytest.approx(answers[0][0].age, rel=0.01)


def test_stream_reads_only_a_few_images_ahead(predictor: ag.Predictor) -> None:
    read = []

    def images() -> Iterator[np.ndarray]:
        for seed in itertools.count():
            read.append(seed)
            yield image(seed)

    answers = list(itertools.islice(predictor.stream(images()), 5))
    assert len(answers) == 5 and len(read) <= 5 + 2 * 3  # read ahead by two threads, or a batch


def test_stream_without_faces_yields_empty_lists(finder: ag.Predictor) -> None:
    read = []

    def walls() -> Iterator[np.ndarray]:
        for seed in itertools.count():
            read.append(seed)
            assert seed < 100
            yield np.full((30, 30, 3), 128, "uint8")

    assert list(itertools.islice(finder.stream(walls()), 5)) == [[]] * 5 and len(read) <= 9


def test_a_small_or_turned_face_has_a_note(finder: ag.Predictor, couple: np.ndarray) -> None:
    small = np.asarray(Image.fromarray(couple).resize((108, 60), Image.Resampling.LANCZOS))
    assert [face.note for face in finder(small)] == [face.note for face in finder(small) if "small: " in face.note]
    assert finder(small)
    left, right, _, *mouth = TEMPLATE
    # The eyes are 78 pixels apart, and 0.28 of that is 21.8.
    for nose, note in (
        (98, None),
        (77, None),
        (75, "turned from the camera"),
        (119, None),
        (121, "turned from the camera"),
    ):
        assert _note(Detection((5, 5, 190, 190), (left, right, (nose, 104), *mouth), 1.0), (200, 200)) == note


@pytest.mark.parametrize(
    ("box", "size", "cut_off"),
    [
        ((1, 1, 198, 198), (200, 200), False),
        ((0, 1, 198, 198), (200, 200), True),
        ((1, 0, 198, 198), (200, 200), True),
        ((1, 1, 199, 198), (200, 200), True),
        ((1, 1, 198, 199), (200, 200), True),
        ((1, 1, 128, 198), (130, 200), True),  # the right end of the mouth, at 133, is outside
        ((1, 1, 198, 128), (200, 137), True),  # at 137, just
    ],
)
def test_a_face_cut_off_by_the_edge_has_a_note(
    box: tuple[int, int, int, int], size: tuple[int, int], cut_off: bool
) -> None:
    assert _note(Detection(box, TEMPLATE, 1.0), size) == ("cut off by the edge of the image" if cut_off else None)


def test_drawing_copies_the_image(finder: ag.Predictor, couple: np.ndarray) -> None:
    before = couple.copy()
    faces = finder(couple)
    drawn = np.asarray(finder.draw(couple, faces))
    assert drawn.shape == couple.shape and np.array_equal(couple, before)
    changed = np.argwhere(np.any(drawn != couple, axis=-1))
    left, top, right, bottom = faces[0].box
    assert np.any(drawn[(top + bottom) // 2, left] != couple[(top + bottom) // 2, left])
    assert np.array_equal(
        drawn[(top + bottom) // 2, (left + right) // 2], couple[(top + bottom) // 2, (left + right) // 2]
    )
    assert len(changed) < 0.5 * couple.shape[0] * couple.shape[1]
    assert np.array_equal(np.asarray(finder.draw(couple)), drawn)


def test_frames_of_opencv_are_answered_as_their_rgb_images(finder: ag.Predictor, couple: np.ndarray) -> None:
    tinted = couple.copy()
    tinted[..., 0] //= 2
    opencv = ag.Predictor(finder.model, bgr=True)
    assert opencv(tinted[..., ::-1]) == finder(tinted) != finder(tinted[..., ::-1].copy())
    assert opencv(Image.fromarray(tinted)) == finder(tinted)
    np.testing.assert_array_equal(opencv.draw(tinted[..., ::-1], []), tinted)
    (aligned,) = opencv(tinted[..., ::-1], aligned=True)
    assert aligned == finder(tinted, aligned=True)[0]


def test_failing_image_leaves_the_others_predicted(
    finder: ag.Predictor, couple: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    detect = type(finder.detector).__call__
    errors = {60: MemoryError(), 61: RuntimeError("broken")}

    def fail(detector: object, image: Image.Image, **options: float) -> object:
        if image.height in errors:
            raise errors[image.height]
        return detect(detector, image, **options)

    monkeypatch.setattr(type(finder.detector), "__call__", fail)
    first, *failed, last = finder([couple, couple[:60], couple[:61], couple])
    assert first == last and len(first) == 2
    assert [each.reason for each in failed] == [
        "needs more memory than there is: reduce the image",
        "cannot be searched for faces: RuntimeError: broken",
    ]


@pytest.mark.parametrize("place", [(600, 400, 360, 200), (60, 80, 2160, 1200)])
def test_face_in_large_jpeg_is_cropped_at_full_resolution_where_that_shows(
    finder: ag.Predictor, couple: np.ndarray, place: tuple[int, int, int, int]
) -> None:
    left, top, width, height = place
    photograph = Image.new("RGB", (2400, 1400), (128, 128, 128))
    photograph.paste(Image.fromarray(couple).resize((width, height)), (left, top))
    file = io.BytesIO()
    photograph.save(file, "JPEG", quality=95)
    photograph, faces = Image.open(file), finder(file.getvalue())
    assert len(faces) == 2 and faces.size == (2400, 1400)
    is_small = width < 720
    for face in faces:
        decoded, landmarks = (photograph, np.array(face.landmarks)) if is_small else (
            photograph.reduce(2), np.array(face.landmarks) / 2
        )  # fmt: skip
        aligned = align_face(decoded.convert("RGB"), landmarks)
        (expected,) = finder(aligned.resize((SIZE, SIZE), Image.Resampling.LANCZOS), aligned=True)
        assert face.age == pytest.approx(expected.age, abs=0.01 if is_small else 0.3)


@pytest.mark.parametrize(
    ("size", "min_face", "scale"),
    [((2000, 1500), 40, 1.0), ((2002, 1500), 40, 2.0), ((2002, 1500), 39, 1.0), ((2002, 1500), 50, 2.0)],
)
def test_faces_are_searched_at_half_size_above_three_million_pixels(
    finder: ag.Predictor, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], min_face: int, scale: float
) -> None:
    searched = []
    monkeypatch.setattr(
        type(finder.detector), "__call__", lambda _, image, scale: searched.append((image.size, scale)) or []
    )
    assert ag.Predictor(finder.model, min_face=min_face)(Image.new("RGB", size)).size == size
    assert searched == [((size[0] / scale, size[1] / scale), scale)]


@pytest.mark.parametrize(("times", "enlarged"), [(1.9, True), (2.1, False)])
def test_a_face_of_fewer_pixels_than_its_crop_is_enlarged(times: float, enlarged: bool) -> None:
    landmarks = tuple((times * x, times * y) for x, y in TEMPLATE)  # in a photograph reduced by 2
    assert _enlarges(Detection((0, 0, 9, 9), landmarks, 1.0), 2.0) == enlarged


def test_photographs_are_answered_after_a_second(predictor: ag.Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, answered = itertools.count(0, 0.3), []  # seconds
    monkeypatch.setattr("agegender.inference.predictor.time", types.SimpleNamespace(monotonic=lambda: next(clock)))
    answer = ag.Predictor._answer
    monkeypatch.setattr(
        ag.Predictor, "_answer", lambda self, waiting: (answered.append(len(waiting)), answer(self, waiting))[1]
    )
    assert len(list(ag.Predictor(predictor.model, aligned=True).stream(map(image, range(10))))) == 10
    assert answered == [4, 4, 2]  # by batches of 64 otherwise
