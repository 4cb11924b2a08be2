"""What comes between a run and its end: signals, a second trainer in its folder, a disk that is full or gone."""

import contextlib
import fcntl
import os
import pathlib
import re
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

from agegender.training.processes import says_lost

RUN_AGAIN: Final = os.EX_TEMPFAIL  # 75
_LOCK: Final = "lock"
# What TensorFlow says when files are gone, cut short or hold something else; its errors are no OSErrors.
_LOST_DATA: Final = ("NotFoundError", "DataLossError", "PermissionDeniedError")
_OF_DATA: Final = ("JPEG", "expected to contain", "parse")
_OF_DISK: Final = ("No space left", "File too large", "Input/output error")
_WORDS: Final = (*_OF_DATA, *_OF_DISK, "truncated", "corrupted", "No such file", "ermission denied")


class Stopped(SystemExit):
    """A signal ended training, its state is on the disk, and the same command goes on.

    Nobody has to catch it: Python then ends with the exit status 75, which on Unix means "try again later".
    """

    def __init__(self, words: str) -> None:
        super().__init__(words)
        self.code = RUN_AGAIN


@contextlib.contextmanager
def hold(folder: pathlib.Path) -> Iterator[None]:
    """Holds a folder for this process alone; the system gives it free when the process ends, however it ends.

    Args:
        folder: made if it is not there.

    Raises:
        BlockingIOError: if another process holds it; names it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / _LOCK, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise BlockingIOError(
                f"Process {file.read().strip() or 'unknown'} is training in {folder.parent}. Wait for it, end it, or "
                "choose another workdir."
            ) from None
        file.truncate(0)
        print(os.getpid(), file=file, flush=True)
        yield


class StopSignals:
    """Notes SIGTERM and SIGINT while it is entered, instead of ending there and then; a second one does end it.

    A signal that is ignored, as a shell does for what it runs in the background, still is. Python hears signals in its
    main thread alone: in another one, nothing is noted and nothing changes.

    Example: `with StopSignals() as signals: ...; signals.came`, the name of the signal, or None.
    """

    def __init__(self) -> None:
        self.came: str | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            heard = [each for each in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(each) != signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._note) for number in heard}
        return self

    def _note(self, number: int, frame: Any) -> None:
        self.came = signal.Signals(number).name
        os.write(2, f"\n{self.came}: saves after this step. A second one ends now, without saving.\n".encode())
        self.__exit__()

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not set by Python
        self._before = {}


class ExplainedError(OSError):
    """Lost data or a full disk, in words that say what to do."""


@contextlib.contextmanager
def explained(where: Callable[[], str]) -> Iterator[None]:
    """Says of lost data and full disks, whichever library notices them, what happened and what to do, in one line.

    Args:
        where: the state of the run, a sentence.

    Raises:
        ExplainedError: in the place of such an error.
    """
    try:
        yield
    except ExplainedError:
        raise
    except OSError as error:
        if error.errno is None and not _is_hdf5(error):
            raise  # words of our own
        what = ": ".join(str(part) for part in (error.strerror or error, error.filename) if part)
        raise ExplainedError(f"{line_of(what)}. {where()} Mend that, then run the same command again.") from error
    except Exception as error:
        if says_lost(error):
            raise ExplainedError(
                f"Another process of the run was lost: {line_of(error)}. {where()} Start all processes again, or "
                "fewer, to go on."
            ) from error
        kind, words = type(error).__name__, str(getattr(error, "message", error))
        of_disk = any(hint in words for hint in _OF_DISK)
        of_data = not of_disk and (kind in _LOST_DATA or any(hint in words for hint in _OF_DATA))
        if not type(error).__module__.startswith("tensorflow") or not (of_disk or of_data):
            raise
        hint = ": a shard of the data set is gone or damaged" if of_data else ""
        raise ExplainedError(
            f"{kind}: {line_of(words)}{hint}. {where()} Mend that, then run the same command again."
        ) from error


def _is_hdf5(error: OSError) -> bool:
    return "errno" in str(error)


def line_of(words: Any) -> str:
    r"""The line of an error that says it, without the places in the code that TensorFlow names and the full stop.

    >>> line_of('Graph execution error:\n\n  File "parse.py"\ntruncated record at 5\n [[{{node Next}}]] [Op:X]')
    'truncated record at 5'
    """
    plain = re.sub(r"\{\{.*?\}\}|\[\[.*?\]\]|\[Op:.*?\]|name: *$", "", str(words), flags=re.MULTILINE)
    lines = [line.strip() for line in plain.splitlines() if line.strip() and not line.strip().startswith('File "')]
    said = next((line for line in lines if any(word in line for word in _WORDS)), lines[0] if lines else "")
    return said.removesuffix(".")[:300]
