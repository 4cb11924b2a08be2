"""Interruptions of a run: signals, and a second process in its folder."""

import contextlib
import fcntl
import os
import pathlib
import signal
import threading
from collections.abc import Iterator
from typing import Any, Final

RUN_AGAIN: Final = os.EX_TEMPFAIL  # 75
_LOCK: Final = "lock"


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
