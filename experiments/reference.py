"""Writes the reference of the library from its docstrings, with pdoc: `make docs`.

python -W error -m experiments.reference docs/api
"""

import sys
import types
from typing import Any

# What there is for those who want more than the public names.
ROOMS = ("batch_norm", "beam", "losses", "metrics", "processes", "schema", "trunk_cache")


def main(folder: str) -> None:
    from agegender.environment import load_backend

    load_backend()
    _shorten_types()
    import agegender

    for name in agegender.__all__:  # pdoc looks into the dictionary, where names that are imported late are missing
        vars(agegender)[name] = getattr(agegender, name)
    call: Any = agegender.Predictor.__call__
    call.__doc__ += "\n\n@public"
    import pdoc.__main__

    rooms = [f"agegender.{room}" for room in ROOMS]
    pdoc.__main__.cli(["--docformat=google", f"--output-directory={folder}", "agegender", *rooms])


def _shorten_types() -> None:
    """By the names that users import. Numpy's are unions of ten lines, others lie deep inside their package."""
    import keras
    import numpy.typing
    import tensorflow as tf

    ours: Any = numpy.typing
    ours.ArrayLike = type("ArrayLike", (), {"__module__": "numpy.typing"})
    generic = {"__module__": "numpy.typing", "__class_getitem__": classmethod(types.GenericAlias)}
    ours.NDArray = type("NDArray", (), generic)
    keras.Model.__module__ = "keras"  # not Layer, a base class of ours
    keras.optimizers.Optimizer.__module__ = "keras.optimizers"
    keras.callbacks.Callback.__module__ = keras.callbacks.History.__module__ = "keras.callbacks"
    tf.data.Dataset.__module__, tf.data.Dataset.__qualname__ = "tensorflow.data", "Dataset"


if __name__ == "__main__":
    main(sys.argv[1])
