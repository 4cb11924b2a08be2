"""Files that are whole or not there: written aside, put on the disk, and only then moved to their place."""

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import Final

_ASIDE: Final = ".aside-"  # what a killed program leaves begins so


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """A path to write to instead of `path`, with the same ending; what was written is moved there at the end.

    Whoever reads `path`, also after a power cut, finds what was there before or all of what is there now. After an
    error in between nothing of it is left.

    Args:
        path: of the file; its folder is there.

    Yields:
        The path to write to.

    Example:

    >>> import tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> with replacing(folder / "a.txt") as aside:
    ...     _ = aside.write_text("whole"), (folder / "a.txt").exists()
    >>> [(path.name, path.read_text()) for path in folder.iterdir()]
    [('a.txt', 'whole')]
    """
    path = pathlib.Path(path)
    aside = path.with_name(f"{_ASIDE}{path.name}")
    try:
        yield aside
        _put_on_disk(aside)
        os.replace(aside, path)
        _put_on_disk(path.parent)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def sweep(folder: pathlib.Path) -> None:
    """Removes what programs that were killed have left of files they were writing to a folder."""
    for left in folder.glob(f"{_ASIDE}*"):
        left.unlink(missing_ok=True)


def _put_on_disk(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
