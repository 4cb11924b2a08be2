"""onnxruntime sessions that can be pickled, and that work in a process forked after they were used."""

import os
import pathlib
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime


class OnnxModel:
    """An ONNX file that is loaded when it is first run, once in each process.

    onnxruntime's threads do not survive a fork, so that a session of the parent hangs in the child: the child loads
    its own. A pickle holds the path only.

    Args:
        path: of the file.

    Example:

    >>> OnnxModel(pathlib.Path(__file__).parent / "mtcnn" / "rnet.onnx").run(np.zeros((2, 24, 24, 3), "float32"))[0].shape
    (2, 5)
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = pathlib.Path(path)
        self._process: int | None = None
        self._session: Any = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]

    @property
    def session(self) -> onnxruntime.InferenceSession:
        """The session of this process."""
        if self._process != os.getpid():
            if self._process is not None:
                self._lock = threading.Lock()  # in a forked child another thread's lock would stay locked
            with self._lock:
                if self._process != os.getpid():
                    self._session, self._process = _load_session(self.path), os.getpid()
        return self._session

    def run(self, values: np.ndarray) -> list[np.ndarray]:
        """Runs the model on its one input.

        Args:
            values: of the shape and dtype that the file declares.

        Returns:
            Its outputs, in the order of the file.
        """
        session = self.session
        return session.run(None, {session.get_inputs()[0].name: values})


def _load_session(path: pathlib.Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    # Threads that spin while they wait take the core that decodes the next photograph.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
