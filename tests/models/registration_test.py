"""`import agegender` alone makes Keras find the library's layers."""

import importlib
import pathlib
import subprocess
import sys

import keras
import pytest

import agegender
from agegender.models import registration

RELEASED = pathlib.Path(agegender.__file__).parents[1] / "models/utkface64/best.keras"
SCRIPT = """
import importlib.util, sys
import agegender
assert not {"keras", "numpy", "tensorflow"} & set(sys.modules)
importlib.util.find_spec("keras")  # looking for Keras without importing it must not use up the hook
import keras
assert {"age", "gender"} == set(keras.saving.load_model(sys.argv[1], compile=False).output)
assert not [finder for finder in sys.meta_path if type(finder).__name__ == "_KerasFinder"]
"""


def test_keras_loads_the_released_model_in_a_fresh_process() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, RELEASED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_layers_are_imported_at_once_if_keras_is(monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    monkeypatch.setattr(importlib, "import_module", names.append)
    registration.register_layers_with_keras()
    monkeypatch.undo()
    assert names == ["agegender.models.layers", "agegender.models.augmentation"]
    for name in names:
        importlib.import_module(name)
    for name in ("MeanAge", "MedianAge", "VGGFaceNormalization", "Augmentation"):
        assert keras.saving.get_registered_object(f"agegender>{name}") is not None


def test_an_old_keras_stays_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "agegender.models.layers", None)  # an import of it fails
    registration.register_layers_with_keras()
