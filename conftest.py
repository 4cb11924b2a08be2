"""Runs docstring examples in a folder of their own, with the run, photograph or data set that they name."""

import pathlib

import pytest

TESTS = pathlib.Path(__file__).parent / "tests"
IMAGES = {"train": 16, "validation": 8, "test": 8}


@pytest.fixture(autouse=True)
def example_folder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not isinstance(request.node, pytest.DoctestItem):
        return
    text, folder = request.node.dtest.docstring, request.getfixturevalue("tmp_path")
    monkeypatch.chdir(folder)
    if '"runs/1"' in text:
        (folder / "runs").mkdir()
        (folder / "runs/1").symlink_to(request.getfixturevalue("example_run"))
    if "party.jpg" in text:
        (folder / "party.jpg").symlink_to(request.getfixturevalue("example_photograph"))
    if "load_utkface(" in text or "evaluate_run(" in text:
        data_dir = str(request.getfixturevalue("example_data"))
        monkeypatch.setattr("tensorflow_datasets.core.constants.DATA_DIR", data_dir)


@pytest.fixture(scope="session")
def example_run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run with an untrained model, which predicts 33 years and one half."""
    import keras

    from agegender import build_model

    trunk = keras.Sequential([keras.Input((200, 200, 3)), keras.layers.GlobalAveragePooling2D()])
    folder = tmp_path_factory.mktemp("run")
    small = build_model(trunk, units=(8,), age_dropout=(0.0,), gender_dropout=(0.0,))
    small.save(folder / "best.keras")
    return folder


@pytest.fixture(scope="session")
def example_photograph(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A drawn photograph of two faces."""
    from PIL import Image

    from agegender.synthetic.faces import draw_people

    path = tmp_path_factory.mktemp("photograph") / "party.jpg"
    Image.fromarray(draw_people([(23, 1, 4, 39), (47, 0, 3, 36)])).save(path)
    return path


@pytest.fixture(scope="session")
def example_data(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A prepared data set with ages from 20."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(TESTS)
        from tiny_utkface import prepare

    rows = {split: [{"age": 20 + n, "gender": n % 2} for n in range(count)] for split, count in IMAGES.items()}
    return prepare(tmp_path_factory.mktemp("data"), rows)
