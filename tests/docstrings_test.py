"""Docstrings: every public name describes its arguments, result and errors, and has an example that runs."""

import ast
import doctest
import functools
import importlib
import inspect
import pathlib
import pkgutil
import re
import textwrap
from collections.abc import Callable
from typing import Any

import pytest

import agegender

NAMES = sorted(set(agegender.__all__) - {"__version__"})
ROOT = pathlib.Path(__file__).parent.parent
MODULES = [info.name for info in pkgutil.walk_packages(agegender.__path__, "agegender.") if "__main__" not in info.name]
KERAS_METHODS = {"Augmentation.compute_output_spec", "Augmentation.compute_output_shape"}  # their arguments are Keras's
ERRORS = {"ValueError", "ImageError"}  # the second is one of the first


def with_members(name: str) -> dict[str, Any]:
    """Returns a public name and, if it is a class, its own public methods and properties."""
    thing = getattr(agegender, name)
    inner = vars(thing).items() if inspect.isclass(thing) else ()
    used = {key: value for key, value in inner if not key.startswith("_") or key == "__call__"}
    return {name: thing} | {
        f"{name}.{key}": value
        for key, value in used.items()
        if isinstance(value, property) or inspect.isfunction(value)
    }


PUBLIC = functools.reduce(dict.__or__, map(with_members, NAMES))


def docstring(name: str) -> str:
    """Returns the docstring of a public name, without an inherited one."""
    return inspect.cleandoc(PUBLIC[name].__doc__ or "") + "\n"


def list_entries(name: str, *sections: str) -> set[str]:
    """Returns the names that sections of a docstring describe."""
    found = re.findall(rf"^(?:{'|'.join(sections)}):\n((?: +.*\n|\n)+)", docstring(name), re.MULTILINE)
    return set(re.findall(r"^    \**([\w.]+):", "".join(found), re.MULTILINE))


@pytest.mark.parametrize("name", NAMES)
def test_public_name_has_an_example(name: str) -> None:
    module = PUBLIC[name].__module__
    found = {test.name: test.examples for test in doctest.DocTestFinder().find(importlib.import_module(module))}
    examples = found[f"{module}.{name}"]
    assert any(example.want for example in examples)
    assert not any(doctest.SKIP in example.options for example in examples)


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_public_name_documents_arguments_and_result(name: str) -> None:
    assert docstring(name).strip()
    if name in KERAS_METHODS or isinstance(PUBLIC[name], property):
        return
    signature = inspect.signature(PUBLIC[name])
    takes = set(signature.parameters) - {"self"}
    assert takes <= list_entries(name, "Args", "Attributes")
    if takes and inspect.isfunction(PUBLIC[name]) and signature.return_annotation is not None:
        assert re.search(r"^Returns:\n    \S", docstring(name), re.MULTILINE)


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_public_name_documents_value_errors(name: str) -> None:
    thing = PUBLIC[name]
    made = [vars(thing).get(key) for key in ("__init__", "__post_init__")] if inspect.isclass(thing) else [thing]
    if any(raises_value_error(each, set()) for each in made):
        assert list_entries(name, "Raises") & ERRORS


def raises_value_error(thing: Any, seen: set[Callable]) -> bool:
    """Says whether a function, or one of ours that it calls by name, raises a ValueError."""
    function = inspect.unwrap(thing.fset if isinstance(thing, property) else thing)
    if not inspect.isfunction(function) or function in seen or function.__code__.co_filename == "<string>":
        return False
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    ours = (function.__globals__.get(name) for name in called)
    return bool(ERRORS & called) or any(
        raises_value_error(each, seen | {function})
        for each in ours
        if getattr(each, "__module__", "").startswith("agegender")
    )


def module_text(name: str) -> str:
    """Returns the docstrings of a module and of its public classes and functions."""
    module = importlib.import_module(name)
    own = [v for k, v in vars(module).items() if k[0] != "_" and getattr(v, "__module__", 0) == module.__name__]
    docstrings = [module.__doc__, *(each.__doc__ for each in own if inspect.isclass(each) or inspect.isroutine(each))]
    return "\n".join(inspect.cleandoc(each or "") for each in docstrings) + "\n"


TEXTS = {
    **{name: functools.partial(docstring, name) for name in PUBLIC},
    **{name: functools.partial(module_text, name) for name in MODULES},
}


@pytest.mark.parametrize("name", TEXTS)
def test_docstrings_render_in_google_style(name: str) -> None:
    text = re.sub(r"^ *(>>>|\.\.\.).*|`[^`]*`", "", TEXTS[name](), flags=re.MULTILINE)
    assert not re.search(r"^(Args|Attributes|Returns|Raises|Yields):?\n(?!    \S)", text, re.MULTILINE)
    assert not re.search(r"^(Arguments|Parameters|Throws):?$", text, re.MULTILINE)
    assert not re.search(r"<\w", text)  # a tag


@pytest.mark.parametrize("name", TEXTS)
def test_modules_named_in_docstrings_exist(name: str) -> None:
    for path in re.findall(r"`(agegender(?:\.\w+)+)", TEXTS[name]()):
        thing = pkgutil.resolve_name(path)
        assert thing is not None
