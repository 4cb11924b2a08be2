"""The reference: every public name says what it takes, gives and refuses, with an example that runs."""

import ast
import doctest
import functools
import importlib
import inspect
import pathlib
import re
import textwrap
from collections.abc import Callable
from typing import Any

import pytest

import agegender
from experiments.reference import ROOMS as WITH_A_PAGE

NAMES = sorted(set(agegender.__all__) - {"__version__"})
ROOT = pathlib.Path(__file__).parent.parent
ROOMS = {path.stem for path in (ROOT / "agegender").glob("*.py")}
OF_KERAS = {"Augmentation.compute_output_spec", "Augmentation.compute_output_shape"}  # their arguments are Keras's
REFUSALS = {"ValueError", "ImageError"}  # the second is one of the first


def with_members(name: str) -> dict[str, Any]:
    """A public name and, if it is a class, what that itself defines for others to use."""
    thing = getattr(agegender, name)
    inner = vars(thing).items() if inspect.isclass(thing) else ()
    used = {key: value for key, value in inner if not key.startswith("_") or key == "__call__"}
    return {name: thing} | {
        f"{name}.{key}": value
        for key, value in used.items()
        if isinstance(value, property) or inspect.isfunction(value)
    }


PUBLIC = functools.reduce(dict.__or__, map(with_members, NAMES))


def words(name: str) -> str:
    """Its own docstring, and none that it inherits."""
    return inspect.cleandoc(PUBLIC[name].__doc__ or "") + "\n"


def listed(name: str, *sections: str) -> set[str]:
    """What the sections of a docstring explain."""
    found = re.findall(rf"^(?:{'|'.join(sections)}):\n((?: +.*\n|\n)+)", words(name), re.MULTILINE)
    return set(re.findall(r"^    \**([\w.]+):", "".join(found), re.MULTILINE))


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_has_an_example_that_the_tests_run(name: str) -> None:
    room = PUBLIC[name].__module__
    found = {test.name: test.examples for test in doctest.DocTestFinder().find(importlib.import_module(room))}
    examples = found[f"{room}.{name}"]
    assert any(example.want for example in examples)
    assert not any(doctest.SKIP in example.options for example in examples)


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_what_is_public_says_what_it_takes_and_gives(name: str) -> None:
    assert words(name).strip()
    if name in OF_KERAS or isinstance(PUBLIC[name], property):
        return
    signature = inspect.signature(PUBLIC[name])
    takes = set(signature.parameters) - {"self"}
    assert takes <= listed(name, "Args", "Attributes")
    if takes and inspect.isfunction(PUBLIC[name]) and signature.return_annotation is not None:
        assert re.search(r"^Returns:\n    \S", words(name), re.MULTILINE)


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_what_raises_a_value_error_says_so(name: str) -> None:
    thing = PUBLIC[name]
    made = [vars(thing).get(key) for key in ("__init__", "__post_init__")] if inspect.isclass(thing) else [thing]
    if any(refuses(each, set()) for each in made):
        assert listed(name, "Raises") & REFUSALS


def refuses(thing: Any, seen: set[Callable]) -> bool:
    """Whether a function makes a ValueError, itself or in a function of ours that it calls by name."""
    function = inspect.unwrap(thing.fset if isinstance(thing, property) else thing)
    if not inspect.isfunction(function) or function in seen or function.__code__.co_filename == "<string>":
        return False
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    ours = (function.__globals__.get(name) for name in called)
    return bool(REFUSALS & called) or any(
        refuses(each, seen | {function}) for each in ours if getattr(each, "__module__", "").startswith("agegender")
    )


def all_words(name: str) -> str:
    """The docstring of a public name, or all that the page of a room is made of."""
    if name in PUBLIC:
        return words(name)
    room = importlib.import_module(f"agegender.{name}")
    own = [
        value for key, value in vars(room).items() if key[0] != "_" and getattr(value, "__module__", 0) == room.__name__
    ]
    said = [room.__doc__, *(each.__doc__ for each in own if inspect.isclass(each) or inspect.isroutine(each))]
    assert all(said)
    return "\n".join(inspect.cleandoc(each or "") for each in said) + "\n"


@pytest.mark.parametrize("name", [*sorted(PUBLIC), *WITH_A_PAGE])
def test_a_page_shows_a_docstring_as_it_is_written(name: str) -> None:
    text = re.sub(r"^ *(>>>|\.\.\.).*|`[^`]*`", "", all_words(name), flags=re.MULTILINE)
    assert not re.search(r"^(Args|Attributes|Returns|Raises)\b(?!:\n    \S)", text, re.MULTILINE)
    assert not re.search(r"^(Arguments|Parameters|Yields|Throws)\b", text, re.MULTILINE)
    assert not re.search(r"<\w", text)  # a tag


@pytest.mark.parametrize("name", [*sorted(PUBLIC), *WITH_A_PAGE])
def test_what_a_docstring_refers_to_is_there(name: str) -> None:
    for room, path in re.findall(r"`(?:agegender\.)?([a-z_]+)\.([\w.]+)(?:\(.*?\))?`", all_words(name)):
        if room in ROOMS and path != "json":  # calibration.json is a file
            functools.reduce(getattr, path.split("."), importlib.import_module(f"agegender.{room}"))
    for room in re.findall(r"`agegender\.(\w+)`", all_words(name)):
        importlib.import_module(f"agegender.{room}")


def test_every_page_can_be_reached_from_the_first() -> None:
    assert sorted(re.findall(r"`agegender\.(\w+)`", agegender.__doc__ or "")) == sorted(WITH_A_PAGE)
