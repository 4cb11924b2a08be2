"""Registers the library's layers with Keras as soon as Keras is imported, without importing Keras itself."""

import contextlib
import importlib
import sys
from typing import Any


def register_layers_with_keras() -> None:
    """Makes `keras.saving.load_model` find the library's layers, whether Keras is imported already or later."""
    if "keras" in sys.modules:
        _import_layers()
    elif not any(isinstance(finder, _KerasFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _KerasFinder())


class _KerasFinder:
    """Finds Keras as the other finders do, and imports our layers at the end of Keras's own import."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != "keras":
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            self._import_layers_after(spec.loader)
        return spec

    def _import_layers_after(self, loader: Any) -> None:
        exec_module = loader.exec_module

        def exec_module_and_import_layers(module: Any) -> None:
            exec_module(module)
            with contextlib.suppress(ValueError):  # Keras is being reloaded
                sys.meta_path.remove(self)
            _import_layers()

        loader.exec_module = exec_module_and_import_layers


def _import_layers() -> None:
    # An old Keras must stay importable beside a library that needs a newer one.
    with contextlib.suppress(ImportError):
        importlib.import_module("agegender.models.layers")
        importlib.import_module("agegender.models.augmentation")
