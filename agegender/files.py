"""Atomic writes: a file has its old content or its new content, also after a power cut."""

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import Final

_PREFIX: Final = ".aside-"  # of temporary files


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a temporary path with the same suffix, and renames it to `path` at the end.

    After an error, the temporary file is removed and `path` is as it was.

    Args:
        path: path of the file; its folder must exist.

    Yields:
        The path to write to.

    Example:

    >>> import tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> with atomic_write(folder / "a.txt") as temporary:
    ...     _ = temporary.write_text("content"), (folder / "a.txt").exists()
    >>> [(path.name, path.read_text()) for path in folder.iterdir()]
    [('a.txt', 'content')]
    """
    path = pathlib.Path(path)
    temporary = path.with_name(f"{_PREFIX}{path.name}")
    try:
        yield temporary
        _flush_to_disk(temporary)
        os.replace(temporary, path)
        _flush_to_disk(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_leftovers(folder: pathlib.Path) -> None:
    """Removes the temporary files that killed processes left in a folder."""
    for path in folder.glob(f"{_PREFIX}*"):
        path.unlink(missing_ok=True)


def _flush_to_disk(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
