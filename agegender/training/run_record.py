"""run.json: what a run was told, by which code and on what, how long it took, and where it was interrupted.

It is written before the first step, aside and moved, and anew when an epoch ends, the run goes on, or it is finished.
No Keras here: `agegender info` shows a record without loading it.
"""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
from collections.abc import Mapping
from typing import Any, Final

from agegender.files import replacing

RECORD: Final = "run.json"
FINISHED: Final = "finished"
_ABSENT: Final = "nothing"
_PACKAGES: Final = ("keras", "tensorflow", "jax", "torch", "tensorflow-datasets", "keras-vggface", "numpy")
_ROOT: Final = pathlib.Path(__file__).parents[2]  # a clone, or where the package is installed


def read_record(workdir: str | os.PathLike) -> dict[str, Any]:
    """Reads the record of a run, from its folder or its file; an empty one if there is none.

    Raises:
        ValueError: if it is damaged.
    """
    path = pathlib.Path(workdir)
    path = path / RECORD if path.is_dir() else path
    try:
        return dict(json.loads(path.read_text())) if path.is_file() else {}
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is no record of a run, or damaged: {error}. Restore it, or move it away") from None


def write_record(workdir: pathlib.Path, facts: Mapping[str, Any]) -> None:
    """Writes the record of a run, which is then whole at any time."""
    with replacing(workdir / RECORD) as aside:
        aside.write_text(json.dumps(facts, indent=2) + "\n")


def note_seconds(workdir: pathlib.Path, phase: str, seconds: float | list[float]) -> None:
    """Adds to the record how long a phase took, such as "evaluation"."""
    record = read_record(workdir)
    rounded = [round(each, 2) for each in seconds] if isinstance(seconds, list) else round(seconds, 2)
    write_record(workdir, {**record, "seconds": {**record.get("seconds", {}), phase: rounded}})


def plain(value: Any) -> Any:
    """Settings as JSON will give them back.

    >>> import numpy as np
    >>> plain({"sizes": [(8, 32)], "age_weights": np.ones(2)})
    {'sizes': [[8, 32]], 'age_weights': [1.0, 1.0]}
    """
    return json.loads(json.dumps(value, default=lambda each: each.tolist() if hasattr(each, "tolist") else str(each)))


def now() -> str:
    """The time of this second, in UTC, as ISO 8601 writes it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def list_versions() -> dict[str, str]:
    """The versions of Python and of what is installed of the packages that numbers depend on."""
    installed = {name: _version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), **{name: v for name, v in installed.items() if v}}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def git_state() -> dict[str, Any] | None:
    """The commit of the clone that this code is of, and whether it has changes; None outside a clone."""
    top = _git("rev-parse", "--show-toplevel")
    if top is None or pathlib.Path(top).resolve() != _ROOT.resolve():
        return None  # installed, perhaps inside somebody else's clone
    commit, status = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": bool(status)} if commit else None


def _git(*arguments: str) -> str | None:
    command = ["git", "--no-optional-locks", *arguments]
    try:
        done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Mappings within mappings as one.

    >>> flatten({"epochs": 3, "augmentation": {"zoom": 0.2}})
    {'epochs': 3, 'augmentation.zoom': 0.2}
    """
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What differs between the settings of a run and those it is asked to go on with, in words.

    >>> differences({"epochs": 3, "seed": 1}, {"epochs": 4, "seed": 1})
    ['epochs: 3 there, 4 here']
    """
    old, new = flatten(there), flatten(here)
    keys = [key for key in dict.fromkeys([*old, *new]) if old.get(key, _ABSENT) != new.get(key, _ABSENT)]
    return [f"{key}: {_short(old.get(key, _ABSENT))} there, {_short(new.get(key, _ABSENT))} here" for key in keys]


def _short(value: Any) -> str:
    words = "''" if value == "" else str(value)
    return words if len(words) <= 60 else f"{words[:57]}..."


def describe_run(path: str | os.PathLike) -> str:
    """What the record of a run says, for people to read.

    Args:
        path: folder of the run, or its run.json.

    Returns:
        A few lines; only what the record has, for older ones have less.

    Raises:
        FileNotFoundError: if there is no record.
    """
    record = read_record(path)
    if not record:
        raise FileNotFoundError(f"There is no {RECORD} at {path}. `train` writes one into its workdir.")
    code, seconds = record.get("code") or {}, record.get("seconds", {})
    epochs = seconds.get("epochs", [])
    finished = record.get(FINISHED)
    rows: dict[str, Any] = {
        "started": record.get("started"),
        "finished": finished or (f"not yet; epochs done: {len(epochs)}" if "seconds" in record else None),
        "command": " ".join(record.get("command", [])),
        "code": code and f"commit {code['commit'][:12]}{', with changes of its own' if code['dirty'] else ''}",
        "versions": ", ".join(f"{name} {version}" for name, version in record.get("versions", {}).items()),
        "computed": ", ".join(filter(None, [record.get("backend"), record.get("dtype_policy"), _devices(record)])),
        "config": ", ".join(f"{name}={_short(value)}" for name, value in flatten(record.get("config", {})).items()),
        "set-up": _seconds(seconds.get("set_up")),
        "training": epochs and f"{_seconds(sum(epochs))}, {_seconds(sum(epochs) / len(epochs))} an epoch",
        "evaluation": _seconds(seconds.get("evaluation")),
        "went on": ", ".join(f"from step {each['step']} at {each['at']}" for each in record.get("resumed", [])),
    }
    return "\n".join(f"{name:<10}  {value}" for name, value in rows.items() if value)


def _devices(record: Mapping[str, Any]) -> str:
    return " ".join(record.get("devices", []))


def _seconds(seconds: float | None) -> str | None:
    """
    >>> _seconds(4.26), _seconds(75.0), _seconds(7325.0)
    ('4.3 s', '1 min 15 s', '2 h 02 min')
    """
    if seconds is None or seconds < 60:
        return None if seconds is None else f"{seconds:.1f} s"
    minutes = int(seconds // 60)
    return f"{minutes} min {seconds % 60:02.0f} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
