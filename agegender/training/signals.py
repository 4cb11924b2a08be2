"""Interruptions of a run: signals, a second process in its folder, a full disk, lost data."""

import contextlib
import fcntl
import os
import pathlib
import re
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

from agegender.training.processes import is_peer_failure

RUN_AGAIN: Final = os.EX_TEMPFAIL  # 75
_LOCK: Final = "lock"
# TensorFlow's errors for files that are missing or damaged and for a full disk; they are not OSErrors.
_TENSORFLOW_IO_ERRORS: Final = ("NotFoundError", "DataLossError", "PermissionDeniedError", "ResourceExhaustedError")


class Stopped(SystemExit):
    """A signal has stopped training; its state is saved and the same command resumes it.

    If nobody catches it, Python ends with the exit status 75 (EX_TEMPFAIL, "try again later").
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.code = RUN_AGAIN


@contextlib.contextmanager
def lock_workdir(folder: pathlib.Path) -> Iterator[None]:
    """Locks a folder against other processes; the lock ends with the process, even if it is killed.

    Args:
        folder: created if it does not exist.

    Raises:
        BlockingIOError: if another process has locked the folder; names it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / _LOCK, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise BlockingIOError(
                f"Process {file.read().strip() or 'unknown'} is training in {folder.parent}. Wait for it, stop it, or "
                "choose another workdir."
            ) from None
        file.truncate(0)
        print(os.getpid(), file=file, flush=True)
        yield


class StopSignals:
    """Records SIGTERM and SIGINT instead of ending the process; a second signal has its usual effect.

    Ignored signals, as in background jobs of a shell, stay ignored. Python delivers signals to the main thread only, so
    nothing is recorded in other threads.

    Example: `with StopSignals() as signals: ...; signals.received`, the name of the signal, or None.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            numbers = [each for each in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(each) != signal.SIG_IGN]
            self._previous = {number: signal.signal(number, self._record) for number in numbers}
        return self

    def _record(self, number: int, frame: Any) -> None:
        self.received = signal.Signals(number).name
        message = f"\n{self.received}: stopping after this step. A second one stops now, without saving.\n"
        os.write(2, message.encode())
        self.__exit__()

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not installed by Python
        self._previous = {}


class ExplainedError(OSError):
    """Lost data, a full disk or a lost process, in one line that says what to do."""


@contextlib.contextmanager
def explain_errors(describe_state: Callable[[], str]) -> Iterator[None]:
    """Replaces errors of the disk, the data and other processes by one line that says what to do.

    Args:
        describe_state: returns a sentence on the state of the run.

    Raises:
        ExplainedError: instead of an OSError of the system, an I/O error of TensorFlow, or JAX's error after another
            process ended. Other errors pass through.
    """
    try:
        yield
    except ExplainedError:
        raise
    except OSError as error:
        if error.errno is None and not _is_hdf5_error(error):
            raise  # our own message
        reason = ": ".join(str(part) for part in (error.strerror or error, error.filename) if part)
        raise ExplainedError(
            f"{format_error(reason)}. {describe_state()} Fix that, then run the same command again."
        ) from error
    except Exception as error:
        kind, message = type(error).__name__, format_error(getattr(error, "message", error))
        if is_peer_failure(error):
            raise ExplainedError(
                f"Another process of the run was lost: {message}. {describe_state()} Start all processes again, or "
                "fewer, to resume."
            ) from error
        if not type(error).__module__.startswith("tensorflow") or kind not in _TENSORFLOW_IO_ERRORS:
            raise
        raise ExplainedError(
            f"{kind}: {message}. {describe_state()} Fix that, then run the same command again."
        ) from error


def _is_hdf5_error(error: OSError) -> bool:
    return "errno" in str(error)  # h5py has the errno of the system in the message only


def format_error(message: Any) -> str:
    r"""Shortens an error to one line, without the graph nodes and source lines that TensorFlow adds.

    >>> format_error('Graph execution error:\n\nDetected at node Next defined at (most recent call last):\n'
    ...     '  File "parse.py"\ntruncated record at 5\n [[{{node Next}}]] [Op:X]')
    'Graph execution error: truncated record at 5'
    """
    noise = r"\{\{.*?\}\}|\[\[.*?\]\]|\[Op:.*?\]|name: *$|^Detected at node.*$|^ *File \".*$"
    lines = [line.strip() for line in re.sub(noise, "", str(message), flags=re.MULTILINE).splitlines()]
    return " ".join(filter(None, lines)).removesuffix(".")[:300]
