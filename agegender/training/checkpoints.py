"""Checkpoint files: the state of a run after a step, written atomically and verified when read.

    checkpoints/step-00001234.npz     an archive that `numpy.load` reads, with a checksum of each entry
        0000.npy, 0001.npy, ...       one array per variable, in a fixed order
        facts.json                    position, settings, state of the callbacks, names of the variables

A checkpoint is written to a temporary file and renamed, so a killed process leaves no partial one. If the newest
checkpoint is damaged, the one before is used.
"""

import dataclasses
import io
import json
import pathlib
import re
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import numpy as np

from agegender.files import atomic_write
from agegender.training.processes import broadcast_from_chief, is_chief, process_count

CHECKPOINTS: Final = "checkpoints"  # folder in the workdir of an unfinished run
_FACTS: Final = "facts.json"
_NAME: Final = re.compile(r"step-\d+\.npz")
_READ_ERRORS: Final = (
    OSError,
    MemoryError,
    ValueError,
    TypeError,
    EOFError,
    KeyError,
    RuntimeError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointPolicy:
    """When `train` writes checkpoints, besides at the end of each epoch, and how many it keeps.

    Attributes:
        seconds: write a checkpoint after this many seconds, above 0; a killed run loses at most that much work.
        steps: also write one after this many steps; 0 for time alone.
        keep: number of checkpoints to keep, 1 or more. With 2, a checkpoint damaged by the disk costs only the steps
            since the one before. A checkpoint is about three times as large as the trainable weights.

    Raises:
        ValueError: if a number is out of range.

    Example:

    >>> CheckpointPolicy(seconds=60.0)
    CheckpointPolicy(seconds=60.0, steps=0, keep=2)
    """

    seconds: float = 300.0
    steps: int = 0
    keep: int = 2

    def __post_init__(self) -> None:
        if not self.seconds > 0 or self.steps < 0 or self.keep < 1:
            raise ValueError(
                "`seconds` must be above 0, `steps` 0 or more, `keep` 1 or more. "
                f"Received: seconds={self.seconds}, steps={self.steps}, keep={self.keep}"
            )


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Content of a checkpoint: `arrays` in the order in which they were written, `facts` as parsed from JSON."""

    path: pathlib.Path
    arrays: list[np.ndarray]
    facts: dict[str, Any]


class UnreadableCheckpointError(OSError):
    """A checkpoint is damaged."""


def write_checkpoint(
    folder: pathlib.Path, step: int, arrays: Iterable[np.ndarray], facts: Mapping[str, Any], *, keep: int = 2
) -> pathlib.Path:
    """Writes a checkpoint and removes old ones.

    Args:
        folder: folder for the checkpoints of one run.
        step: number of steps done. Checkpoints of later steps, from before a resume, are removed.
        arrays: consumed one by one, so that only one is in memory.
        facts: JSON-serialisable facts.
        keep: number of checkpoints to keep.

    Returns:
        The path of the checkpoint.

    Raises:
        OSError: if it cannot be written; earlier ones are kept then.
    """
    path = folder / f"step-{step:08}.npz"
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for index, array in enumerate(arrays):
            with archive.open(f"{index:04}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)
        archive.writestr(_FACTS, json.dumps(facts))
    paths = _list_checkpoints(folder)
    index = paths.index(path)
    for other in [*paths[:index], *paths[index + keep :]]:
        other.unlink(missing_ok=True)
    return path


def read_checkpoint(path: pathlib.Path, content: bytes | None = None) -> Checkpoint:
    """Reads a checkpoint and verifies its checksums.

    Args:
        path: path of the file.
        content: content of the file, if it is not on a disk of this machine.

    Raises:
        UnreadableCheckpointError: if the checkpoint is damaged.
    """
    try:
        with zipfile.ZipFile(path if content is None else io.BytesIO(content)) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("its entries are compressed, so that they may be of any size")
            # Whole entries are read first, so that zipfile verifies their CRC before numpy trusts a shape in them.
            entries = {name: archive.read(name) for name in archive.namelist()}
        facts = json.loads(entries.pop(_FACTS))
        arrays = [np.lib.format.read_array(io.BytesIO(entry), allow_pickle=False) for entry in entries.values()]
        _check_facts(facts, None if content else _step_of(path))
        return Checkpoint(path, arrays, facts)
    except _READ_ERRORS as error:
        raise UnreadableCheckpointError(f"{path} cannot be read: {error}") from error


def _check_facts(facts: Any, step: int | None) -> None:
    """Raises ValueError, KeyError or TypeError for facts of another kind than `CheckpointCallback` writes."""
    epoch, steps = facts["epoch"], facts["settings"]["steps_per_epoch"]
    is_place = all(type(number) is int and number >= 0 for number in (epoch, facts["step"], steps))
    if not is_place or not isinstance(facts["callbacks"], list) or not isinstance(facts["settings"]["config"], dict):
        raise ValueError("its facts are not those of a run")
    if step is not None and step != epoch * steps + facts["step"]:
        raise ValueError(f"it is of step {epoch * steps + facts['step']}, not {step}")


def load_newest_checkpoint(folder: pathlib.Path) -> Checkpoint | None:
    """Reads the newest intact checkpoint of a folder; damaged ones are reported on standard error.

    Returns:
        The checkpoint; None if no checkpoint exists, or only a damaged one of step 0.

    Raises:
        UnreadableCheckpointError: if all checkpoints are damaged.
    """
    paths = _list_checkpoints(folder)
    for path in paths:
        try:
            return read_checkpoint(path)
        except UnreadableCheckpointError as error:
            consequence = "falling back to the checkpoint before it" if _step_of(path) else "starting from scratch"
            print(f"Warning: {error}; {consequence}.", file=sys.stderr)
    if paths and _step_of(paths[0]):
        raise UnreadableCheckpointError(
            f"None of the {len(paths)} checkpoints in {folder} can be read. To start from scratch, choose another "
            "workdir or move this one away."
        )
    return None


def load_checkpoint_from_chief(find: Callable[[], Checkpoint | None]) -> Checkpoint | None:
    """Returns the checkpoint that process 0 finds, in all processes; only process 0 needs the file."""
    if process_count() == 1:
        return find()
    checkpoint: Checkpoint | None = None

    def read_bytes() -> bytes:
        nonlocal checkpoint
        checkpoint = find()
        return checkpoint.path.read_bytes() if checkpoint else b""

    content = broadcast_from_chief(read_bytes)
    if is_chief() or not content:
        return checkpoint
    return read_checkpoint(pathlib.Path("the checkpoint of process 0"), content)


def _list_checkpoints(folder: pathlib.Path) -> list[pathlib.Path]:
    """The checkpoints of a folder, newest first; other files are ignored."""
    return sorted(
        (path for path in folder.glob("step-*.npz") if _NAME.fullmatch(path.name) and path.is_file()),
        key=_step_of,
        reverse=True,
    )


def _step_of(path: pathlib.Path) -> int:
    return int(path.stem.removeprefix("step-"))
