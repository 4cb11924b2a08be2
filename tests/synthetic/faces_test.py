"""Synthetic faces are deterministic, named as in UTKFace, and depend on their labels with overlap."""

import re
import subprocess
import sys
from collections import Counter
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from agegender import schema
from agegender.synthetic.faces import draw_face, main, write_faces

NAME = re.compile(r"(\d+)_([01])_([0-4])_(\d{17})\.jpg\.chip\.jpg")


def _labels(path: Path) -> tuple[int, int, int]:
    matched = NAME.fullmatch(path.name)
    assert matched, path.name
    return int(matched[1]), int(matched[2]), int(matched[3])


def _read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("JPEG", "RGB")
        return np.asarray(image)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_faces(tmp_path_factory.mktemp("faces"), 800, size=32, seed=3)


def _probe(train: np.ndarray, target: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Ridge regression: standardise by the training faces, fit, and predict the test faces."""
    mean, std = train.mean(0), train.std(0) + 1e-6
    rows, unseen = (train - mean) / std, (test - mean) / std
    weights = np.linalg.solve(rows.T @ rows + 300 * np.eye(rows.shape[1]), rows.T @ (target - target.mean()))
    return unseen @ weights + target.mean()


def test_image_depends_on_each_label_and_the_seed_alone():
    first = draw_face(40, 1, 3, seed=7, size=24)
    np.testing.assert_array_equal(first, draw_face(40, 1, 3, seed=7, size=24))
    for *labels, seed in ((41, 1, 3, 7), (40, 0, 3, 7), (40, 1, 2, 7), (40, 1, 3, 8)):
        assert np.any(draw_face(*labels, seed=seed, size=24) != first)


@pytest.mark.parametrize("size", [16, 63, 64, 99, 100, 200])
@pytest.mark.parametrize("age", [schema.MIN_AGE, 16, 17, schema.MAX_AGE])
def test_face_is_uint8_rgb_of_any_age_and_size(age, size):
    for gender, race in ((0, 0), (1, 4)):
        face = draw_face(age, gender, race, seed=1, size=size)
        assert face.shape == (size, size, 3) and face.dtype == np.uint8 and face.std() > 10


def test_seed_is_the_same_person_at_two_sizes():
    def thumbnail(seed: int, size: int) -> np.ndarray:
        image = Image.fromarray(draw_face(30, 1, 0, seed=seed, size=size)).resize((16, 16), Image.Resampling.BOX)
        return np.asarray(image, np.float64)

    small, large = [thumbnail(seed, 64) for seed in range(6)], [thumbnail(seed, 200) for seed in range(6)]
    for index, face in enumerate(small):
        distances = [np.abs(face - other).mean() for other in large]
        assert np.argmin(distances) == index
        assert distances[index] < 5


def test_skin_depends_on_race():
    def cheek(race: int) -> float:
        faces = np.stack([draw_face(30, seed % 2, race, seed=seed, size=32) for seed in range(40)])
        return float(faces[:, 14:18, 8:24].mean())

    white, black, indian = cheek(0), cheek(1), cheek(3)
    assert white > indian + 15
    assert indian > black + 15


def test_channels_are_rgb_in_array_and_file(paths):
    for faces in (np.stack([draw_face(30, 0, 0, seed=seed, size=32) for seed in range(20)]), map(_read, paths[:100])):
        cheeks = np.stack(list(faces))[:, 14:18, 8:24].mean((0, 1, 2))
        assert cheeks[0] > cheeks[1] > cheeks[2] and cheeks[0] > cheeks[2] + 20


def test_files_depend_on_index_size_and_seed_alone(tmp_path):
    few, many = write_faces(tmp_path / "few", 4, size=24, seed=5), write_faces(tmp_path / "many", 9, size=24, seed=5)
    assert [(path.name, path.read_bytes()) for path in few] == [(path.name, path.read_bytes()) for path in many[:4]]
    assert {path.name for path in few}.isdisjoint(path.name for path in write_faces(tmp_path, 9, size=200, seed=6))
    assert _read(few[0]).shape == (24, 24, 3) and _read(next(tmp_path.glob("*.jpg"))).shape == (200, 200, 3)


def test_names_have_labels_and_distinct_times(paths):
    times = []
    for path in paths:
        age, gender, race = _labels(path)
        assert schema.MIN_AGE <= age <= schema.MAX_AGE
        assert gender < len(schema.GENDERS) and race < len(schema.RACES)
        times.append(path.name.split("_")[3].split(".")[0])
        assert datetime.strptime(times[-1] + "000", "%Y%m%d%H%M%S%f").year == 2017
    assert len(set(times)) == len(paths)
    assert sorted(paths) == sorted(paths[0].parent.iterdir())


def test_labels_are_distributed_as_in_utkface(paths):
    ages, genders, races = (np.array(column) for column in zip(*map(_labels, paths), strict=True))
    assert Counter(ages.tolist()).most_common(1)[0][0] == 26
    assert 0.08 < np.mean(ages <= 5) < 0.25
    assert 0.01 < np.mean(ages > 70) < 0.15
    assert ages.min() == 1 and 85 < ages.max() <= 100
    assert abs(genders.mean() - 0.5) < 0.02
    assert set(races) == set(range(len(schema.RACES)))
    assert abs(np.corrcoef(genders, races)[0, 1]) < 0.05


def test_linear_probe_learns_labels_imperfectly(paths):
    thumbnails = np.stack([np.asarray(Image.fromarray(_read(path)).resize((20, 20))) for path in paths])
    features = thumbnails.reshape(len(paths), -1) / 255.0
    age, gender, _ = (np.array(column, np.float64) for column in zip(*map(_labels, paths), strict=True))
    half = 600
    years = _probe(features[:half], age[:half], features[half:])
    error = np.abs(years - age[half:]).mean()
    blind = np.abs(np.median(age[:half]) - age[half:]).mean()
    female = _probe(features[:half], gender[:half], features[half:]) > 0.5
    accuracy = np.mean(female == gender[half:])
    majority = max(gender[half:].mean(), 1 - gender[half:].mean())
    assert error < 0.75 * blind, f"age: {error:.1f} years against {blind:.1f} for the median"
    assert majority + 0.15 < accuracy < 0.98, f"gender: {accuracy:.3f} against {majority:.3f} for the majority"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"age": 140}, r"`age` must be in \[0, 116\]. Received: age=140"),
        ({"age": -1}, "Received: age=-1"),
        ({"gender": 2}, r"`gender` must be in \[0, 1\]. Received: gender=2"),
        ({"race": 5}, r"`race` must be in \[0, 4\]. Received: race=5"),
        ({"seed": -1}, "Received: seed=-1"),
        ({"size": 15}, r"`size` must be in \[16, 1024\]. Received: size=15"),
    ],
)
def test_bad_argument_is_named_with_its_range(change, message):
    arguments = {"age": 30, "gender": 0, "race": 0, "seed": 0, "size": 24} | change
    with pytest.raises(ValueError, match=message):
        draw_face(
            arguments["age"], arguments["gender"], arguments["race"], seed=arguments["seed"], size=arguments["size"]
        )


@pytest.mark.parametrize("change", [{"count": 0}, {"count": -3}, {"size": 5}, {"seed": -1}])
def test_bad_argument_makes_no_folder(tmp_path, change):
    options = {"count": 1, "size": 24, "seed": 0} | change
    name, value = next(iter(change.items()))
    with pytest.raises(ValueError, match=f"Received: {name}={value}"):
        write_faces(tmp_path / "faces", options["count"], size=options["size"], seed=options["seed"])
    assert not (tmp_path / "faces").exists()


def test_command_writes_the_same_files(tmp_path, capsys):
    main([f"--out={tmp_path / 'shell'}", "--count=3", "--size=24", "--seed=2"])
    assert "3 faces" in capsys.readouterr().out
    expected = write_faces(tmp_path / "python", 3, size=24, seed=2)
    for path in expected:
        assert (tmp_path / "shell" / path.name).read_bytes() == path.read_bytes()


def test_defaults_of_the_command_and_the_function(tmp_path, monkeypatch):
    received = []
    monkeypatch.setattr(
        "agegender.synthetic.faces.write_faces", lambda *values, **options: received.append((values, options)) or []
    )
    main([f"--out={tmp_path}"])
    assert received == [((tmp_path, 100), {"size": 200, "seed": 0})]
    (first,), (same,) = write_faces(tmp_path / "1", 1), write_faces(tmp_path / "2", 1, size=200, seed=0)
    assert (first.name, first.read_bytes()) == (same.name, same.read_bytes())


def test_command_explains_a_bad_count(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([f"--out={tmp_path}", "--count=0"])
    assert stopped.value.code == 2
    assert "`count` must be 1 or more. Received: count=0" in capsys.readouterr().err


def test_module_runs_without_tensorflow_and_keras():
    command = [sys.executable, "-m", "agegender.synthetic", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    for word in ("--out", "--count", "--size", "--seed", "Example"):
        assert word in shown
    script = "import sys, agegender.synthetic; sys.exit(bool({'tensorflow', 'keras'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
