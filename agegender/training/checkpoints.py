"""Checkpoints: the whole state of a run between two steps, in one file that is intact or known not to be.

    checkpoints/step-00001234.npz     what `numpy.load` reads: an array for each variable, in a fixed order
        0000.npy, 0001.npy, ...
        facts.json                    where in the run, its settings, what its callbacks keep, the variables' names
        sha256                        of all of that

A checkpoint is written aside and moved to its place, so that a program that is killed leaves none that is cut short. A
disk may still do that: each is compared with its SHA-256 when it is read, and where the newest one is not as it was
written, the one before is taken.
"""

import dataclasses
import hashlib
import io
import json
import pathlib
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import numpy as np

from agegender.files import replacing
from agegender.training.processes import from_chief, is_chief, process_count

CHECKPOINTS: Final = "checkpoints"  # folder of a run, while it is not finished
_FACTS: Final = "facts.json"
_DIGEST: Final = "sha256"
_DAMAGE: Final = (OSError, ValueError, EOFError, KeyError, RuntimeError, struct.error, zlib.error, zipfile.BadZipFile)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Saving:
    """When checkpoints are written and how many stay, beside the one at the end of each epoch.

    Attributes:
        seconds: after which another one is written, above 0: what a run that is killed loses at most.
        steps: number of steps after which another one is written; 0 for seconds alone.
        keep: number of checkpoints that stay on the disk, 1 or more. With 2, one that a disk has damaged costs the
            steps since the one before. Each takes three times the room of the weights that learn, and more for an
            average of them.

    Raises:
        ValueError: for numbers out of range.
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
    """What was read: `arrays` in the order they were written in, and `facts` as JSON knows them."""

    path: pathlib.Path
    arrays: list[np.ndarray]
    facts: dict[str, Any]


class UnreadableCheckpoint(OSError):
    """A checkpoint that is not as it was written."""


def write_checkpoint(
    folder: pathlib.Path, step: int, arrays: Iterable[np.ndarray], facts: Mapping[str, Any], *, keep: int = 2
) -> pathlib.Path:
    """Writes a checkpoint and removes those that are no longer needed.

    Args:
        folder: for the checkpoints of one run.
        step: steps done. Checkpoints of later steps are of a past that is being gone over again, and are removed.
        arrays: taken one by one, so that no two need to be in memory.
        facts: what JSON can hold.
        keep: number of checkpoints that stay.

    Returns:
        The path of the checkpoint.

    Raises:
        OSError: if it cannot be written; those before are untouched.
    """
    path = folder / f"step-{step:08}.npz"
    digest = hashlib.sha256()
    with replacing(path) as aside, zipfile.ZipFile(aside, "w", zipfile.ZIP_STORED) as archive:
        for index, array in enumerate(arrays):
            with archive.open(f"{index:04}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)
            _add(digest, array)
        text = json.dumps(facts)
        digest.update(text.encode())
        archive.writestr(_FACTS, text)
        archive.writestr(_DIGEST, digest.hexdigest())
    found = _find(folder)
    here = found.index(path)
    for other in [*found[:here], *found[here + keep :]]:
        other.unlink(missing_ok=True)
    return path


def read_checkpoint(path: pathlib.Path, content: bytes | None = None) -> Checkpoint:
    """Reads a checkpoint, whole, and compares it with its SHA-256.

    Args:
        path: of the file.
        content: of the file, where it is not on a disk of this machine.

    Raises:
        UnreadableCheckpoint: if it is not as it was written; says what is wrong.
    """
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(path if content is None else io.BytesIO(content)) as archive:
            names = archive.namelist()
            # Each entry is read as bytes first: zipfile then compares their checksum before numpy believes a shape.
            arrays = [_parse(archive.read(name)) for name in names if name.endswith(".npy")]
            text, expected = archive.read(_FACTS).decode(), archive.read(_DIGEST).decode()
        for array in arrays:
            _add(digest, array)
        digest.update(text.encode())
        if digest.hexdigest() != expected:
            raise ValueError(f"its SHA-256 is {digest.hexdigest()[:12]}..., and should be {expected[:12]}...")
        return Checkpoint(path, arrays, json.loads(text))
    except _DAMAGE as error:
        raise UnreadableCheckpoint(f"{path} cannot be read: {error}") from error


def newest_checkpoint(folder: pathlib.Path) -> Checkpoint | None:
    """Reads the newest checkpoint that is intact, and names the others on standard error.

    Returns:
        The checkpoint; None if there is none at all, or only one of the beginning that is not intact.

    Raises:
        UnreadableCheckpoint: if there are some, and none is intact.
    """
    found = _find(folder)
    for path in found:
        try:
            return read_checkpoint(path)
        except UnreadableCheckpoint as error:
            used = (
                "the checkpoint before it is used" if _step(path) else "nothing was done yet, and the run begins anew"
            )
            print(f"Warning: {error}; {used}.", file=sys.stderr)
    if found and _step(found[0]):
        raise UnreadableCheckpoint(
            f"None of the {len(found)} checkpoints in {folder} can be read. To begin anew, choose another workdir or "
            "move this one away."
        )
    return None


def checkpoint_from_chief(find: Callable[[], Checkpoint | None]) -> Checkpoint | None:
    """The checkpoint that process 0 finds, for all processes: only its disk has to hold it."""
    if process_count() == 1:
        return find()
    found: Checkpoint | None = None

    def content() -> bytes:
        nonlocal found
        found = find()
        return found.path.read_bytes() if found else b""

    told = from_chief(content)
    return found if is_chief() or not told else read_checkpoint(pathlib.Path("of process 0"), told)


def _find(folder: pathlib.Path) -> list[pathlib.Path]:
    """The checkpoints of a folder, newest first."""
    return sorted(folder.glob("step-*.npz"), key=_step, reverse=True)


def _step(path: pathlib.Path) -> int:
    return int(path.stem.removeprefix("step-"))


def _parse(content: bytes) -> np.ndarray:
    return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)


def _add(digest: Any, array: np.ndarray) -> None:
    digest.update(f"{array.dtype.str}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
