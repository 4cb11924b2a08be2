"""run.json, the record of a run: config, code, versions, devices, seconds, and where it was resumed.

`agegender info` reads it without Keras, so this module must not import Keras.
"""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
from collections.abc import Callable, Mapping
from typing import Any, Final

from agegender.files import atomic_write

RECORD: Final = "run.json"
FINISHED: Final = "finished"
_ABSENT: Final = "absent"
_PACKAGES: Final = ("keras", "tensorflow", "jax", "torch", "tensorflow-datasets", "keras-vggface", "numpy")
_ROOT: Final = pathlib.Path(__file__).parents[2]  # the clone, or the folder that the package is installed in


def read_record(workdir: str | os.PathLike) -> dict[str, Any]:
    """Reads the record of a run from its folder or from the file; returns {} if it does not exist.

    Raises:
        ValueError: if the file is damaged.
    """
    path = pathlib.Path(workdir)
    path = path / RECORD if path.is_dir() else path
    try:
        return _check_record(json.loads(path.read_text())) if path.is_file() else {}
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged or not the record of a run: {error}. Restore it or move it away") from None


def _check_record(record: Any) -> dict[str, Any]:
    """Returns the record; raises ValueError if an entry is of another kind than `train` writes, and not null."""
    if not isinstance(record, dict):
        raise ValueError(f"it must be an object. Received: {type(record).__name__}")
    for name, is_kind in _KINDS.items():
        if record.get(name) is not None and not is_kind(record[name]):
            raise ValueError(f"`{name}` is not what `train` writes. Received: {_shorten(record[name])}")
    return record


def _is_text(entry: Any) -> bool:
    return isinstance(entry, str)


def _is_list_of(is_item: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda entry: isinstance(entry, list) and all(map(is_item, entry))


def _is_seconds(entry: Any) -> bool:
    numbers = [entry] if not isinstance(entry, list) else entry
    return all(isinstance(number, int | float) for number in numbers)


def _is_mapping_of(is_item: Callable[[Any], bool], *keys: str) -> Callable[[Any], bool]:
    return lambda entry: isinstance(entry, dict) and all(map(is_item, entry.values())) and set(keys) <= set(entry)


_KINDS: Final[Mapping[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("started", FINISHED, "backend", "dtype_policy", "data_dir"), _is_text),
    **dict.fromkeys(("command", "devices"), _is_list_of(_is_text)),
    "code": _is_mapping_of(lambda entry: isinstance(entry, str | bool), "commit", "dirty"),
    "versions": _is_mapping_of(_is_text),
    "config": lambda entry: isinstance(entry, dict),
    "seconds": lambda entry: _is_mapping_of(_is_seconds)(entry) and isinstance(entry.get("epochs", []), list),
    "resumed": _is_list_of(_is_mapping_of(lambda entry: isinstance(entry, str | int), "step", "at")),
}


def read_data_dir(model: str | os.PathLike) -> str | None:
    """Reads where the data set of a run was; None if its record does not say.

    Args:
        model: the folder of a run, or a model file in it.
    """
    path = pathlib.Path(model)
    return read_record(path if path.is_dir() else path.parent / RECORD).get("data_dir")


def write_record(workdir: pathlib.Path, record: Mapping[str, Any]) -> None:
    """Writes the record of a run, atomically."""
    with atomic_write(workdir / RECORD) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n")


def record_seconds(workdir: pathlib.Path, phase: str, seconds: float | list[float]) -> None:
    """Adds to the record how long a phase took, such as "evaluation"."""
    record = read_record(workdir)
    rounded = [round(each, 2) for each in seconds] if isinstance(seconds, list) else round(seconds, 2)
    write_record(workdir, {**record, "seconds": {**(record.get("seconds") or {}), phase: rounded}})


def mark_finished(workdir: pathlib.Path) -> None:
    """Adds to the record when the run finished."""
    write_record(workdir, {**read_record(workdir), FINISHED: format_utc_now()})


def to_json(value: Any) -> Any:
    """Converts settings to the types that reading them from JSON gives.

    >>> import numpy as np
    >>> to_json({"image_sizes": [(8, 32)], "learning_rate": np.float32(0.5)})
    {'image_sizes': [[8, 32]], 'learning_rate': 0.5}
    """
    return json.loads(json.dumps(value, default=lambda each: each.tolist() if hasattr(each, "tolist") else str(each)))


def format_utc_now() -> str:
    """Formats the current time in UTC as ISO 8601, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def list_versions() -> dict[str, str]:
    """Lists the versions of Python and of the installed packages that results depend on."""
    installed = {name: _find_version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), **{name: v for name, v in installed.items() if v}}


def _find_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def read_git_state() -> dict[str, Any] | None:
    """Commit of the git clone that contains this code, and whether it has uncommitted changes; None outside a clone."""
    top = _run_git("rev-parse", "--show-toplevel")
    if top is None or pathlib.Path(top).resolve() != _ROOT.resolve():
        return None  # installed, perhaps inside another clone
    commit, status = _run_git("rev-parse", "HEAD"), _run_git("status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": bool(status)} if commit else None


def _run_git(*arguments: str) -> str | None:
    command = ["git", "--no-optional-locks", *arguments]
    try:
        done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens nested mappings.

    >>> flatten({"epochs": 3, "augmentation": {"zoom": 0.2}})
    {'epochs': 3, 'augmentation.zoom': 0.2}
    """
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def list_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Lists the differences between two settings.

    >>> list_differences({"epochs": 3, "seed": 1}, {"epochs": 4, "seed": 1})
    ['epochs was 3, now 4']
    """
    old, new = flatten(before), flatten(now)
    keys = [key for key in dict.fromkeys([*old, *new]) if old.get(key, _ABSENT) != new.get(key, _ABSENT)]
    return [f"{key} was {_shorten(old.get(key, _ABSENT))}, now {_shorten(new.get(key, _ABSENT))}" for key in keys]


def _shorten(value: Any) -> str:
    text = "''" if value == "" else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def describe_run(path: str | os.PathLike) -> str:
    """Describes a run for people to read.

    Args:
        path: folder of the run, or its run.json.

    Returns:
        A few lines; entries that the record lacks are left out.

    Raises:
        FileNotFoundError: if there is no record.
    """
    record = read_record(path)
    if not record:
        raise FileNotFoundError(f"There is no {RECORD} at {path}. `train` writes one into its workdir.")
    code, seconds, resumed = (record.get(key) or {} for key in ("code", "seconds", "resumed"))
    epochs = seconds.get("epochs") or []
    config, versions = flatten(record.get("config") or {}), record.get("versions") or {}
    environment = [record.get("backend"), record.get("dtype_policy"), *(record.get("devices") or [])]
    rows: dict[str, Any] = {
        "started": record.get("started"),
        "finished": record.get(FINISHED) or f"not yet; epochs done: {len(epochs)}{_describe_checkpoint(path)}",
        "command": " ".join(record.get("command") or []),
        "code": code and f"commit {code['commit'][:12]}{', with uncommitted changes' if code['dirty'] else ''}",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "computed": ", ".join(filter(None, environment)),
        "config": ", ".join(f"{name}={_shorten(value)}" for name, value in config.items()),
        "set-up": _format_seconds(seconds.get("set_up")),
        "training": epochs and f"{_format_seconds(sum(epochs))}, {_format_seconds(sum(epochs) / len(epochs))} an epoch",
        "evaluation": _format_seconds(seconds.get("evaluation")),
        "resumed": ", ".join(f"from step {each['step']} at {each['at']}" for each in resumed),
    }
    return "\n".join(f"{name:<10}  {value}" for name, value in rows.items() if value)


def _describe_checkpoint(path: str | os.PathLike) -> str:
    folder = pathlib.Path(path) if os.path.isdir(path) else pathlib.Path(path).parent
    names = (file.stem.removeprefix("step-") for file in folder.glob("checkpoints/step-*.npz"))
    steps = [int(name) for name in names if name.isdigit()]
    return f"; last checkpoint at step {max(steps)}" if steps else ""


def _format_seconds(seconds: float | None) -> str | None:
    """
    >>> _format_seconds(4.26), _format_seconds(75.0), _format_seconds(7325.0)
    ('4.3 s', '1 min 15 s', '2 h 02 min')
    """
    if seconds is None or seconds < 60:
        return None if seconds is None else f"{seconds:.1f} s"
    minutes = int(seconds // 60)
    return f"{minutes} min {seconds % 60:02.0f} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
