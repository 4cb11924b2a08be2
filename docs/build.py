"""Builds the parts of the documentation that are made from docstrings.

python docs/build.py modules     # the module list of docs/architecture.md
python docs/build.py reference   # the API reference, docs/api/index.html
"""

import ast
import pathlib
import pkgutil
import sys
import types
from typing import Any

ROOT = pathlib.Path(__file__).absolute().parents[1]
ARCHITECTURE = ROOT / "docs" / "architecture.md"
START, END = "<!-- modules: made by docs/build.py -->\n", "<!-- end of modules -->\n"
FOLDERS = ("agegender", "datasets/utkface", "experiments", "benchmarks")


def list_modules() -> str:
    """Returns a Markdown table for each folder: module and first line of its docstring."""
    lines: list[str] = []
    for top in FOLDERS:
        for folder in sorted({path.parent for path in (ROOT / top).rglob("*.py")}):
            if folder.name == "configs":
                continue
            rows = [_describe(path) for path in sorted(folder.glob("*.py")) if _is_listed(path)]
            title = _first_line(folder / "__init__.py")
            lines += [f"### {folder.relative_to(ROOT)}/", "", *([title, ""] if title else [])]
            lines += ["| module | |", "|---|---|", *rows, ""] if rows else []
    return "\n".join(lines)


def _is_listed(path: pathlib.Path) -> bool:
    return not path.name.startswith("__") and not path.name.endswith("_test.py")


def _describe(path: pathlib.Path) -> str:
    return f"| [{path.stem}]({pathlib.Path('..') / path.relative_to(ROOT)}) | {_first_line(path)} |"


def _first_line(path: pathlib.Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n\n")[0].replace("\n", " ")


def update_architecture() -> None:
    before, _, rest = ARCHITECTURE.read_text().partition(START)
    ARCHITECTURE.write_text(before + START + list_modules() + "\n" + END + rest.partition(END)[2])


def build_reference(folder: str) -> None:
    """Writes the API reference with pdoc: a page for the public names and one for each module."""
    from agegender.environment import load_backend

    load_backend()
    _shorten_types()
    import agegender

    for name in agegender.__all__:  # pdoc looks into the dictionary, which lacks names that are imported when used
        vars(agegender)[name] = getattr(agegender, name)
    call: Any = agegender.Predictor.__call__
    call.__doc__ += "\n\n@public"
    import pdoc.__main__

    packages = [f"agegender.{module.name}" for module in pkgutil.iter_modules(agegender.__path__)]  # with their modules
    public = [name for name in packages if not name.startswith("agegender._")]
    pdoc.__main__.cli(["--docformat=google", f"--output-directory={folder}", "agegender", *public])


def _shorten_types() -> None:
    """Shows types by the names that users import; numpy's are unions of ten lines."""
    import keras
    import numpy.typing
    import tensorflow as tf

    numpy_typing: Any = numpy.typing
    numpy_typing.ArrayLike = type("ArrayLike", (), {"__module__": "numpy.typing"})
    generic = {"__module__": "numpy.typing", "__class_getitem__": classmethod(types.GenericAlias)}
    numpy_typing.NDArray = type("NDArray", (), generic)
    keras.Model.__module__ = "keras"
    keras.optimizers.Optimizer.__module__ = "keras.optimizers"
    keras.callbacks.Callback.__module__ = keras.callbacks.History.__module__ = "keras.callbacks"
    tf.data.Dataset.__module__, tf.data.Dataset.__qualname__ = "tensorflow.data", "Dataset"


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["modules"]:
            update_architecture()
        case ["reference"]:
            build_reference(str(ROOT / "docs" / "api"))
        case _:
            sys.exit(__doc__)
