"""onnxruntime sessions that can be pickled and forked."""

import os
import pathlib
from typing import Any

import numpy as np
import onnxruntime


class OnnxModel:
    """An ONNX file that is loaded when it is first run.

    The session computes in the thread that calls it: threads of onnxruntime's own would not survive a fork, and a
    child process would wait for them for good. Callers that want several cores call from several threads. A pickle
    holds the path only.

    Args:
        path: of the file.

    Example:

    >>> rnet = OnnxModel(pathlib.Path(__file__).parent / "mtcnn" / "rnet.onnx")
    >>> rnet.run(np.zeros((2, 24, 24, 3), "float32"))[0].shape
    (2, 5)
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = pathlib.Path(path)
        self._session: onnxruntime.InferenceSession | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_session": None}

    @property
    def session(self) -> onnxruntime.InferenceSession:
        """The loaded session."""
        if self._session is None:  # two threads may both load it, and one result is dropped: a lock would not be forked
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            options.log_severity_level = 4  # the exception says the same
            self._session = onnxruntime.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])
        return self._session

    def run(self, values: np.ndarray) -> list[np.ndarray]:
        """Runs the model on its one input.

        Args:
            values: of the shape and dtype that the file declares.

        Returns:
            Its outputs, in the order of the file.
        """
        return self.session.run(None, {self.session.get_inputs()[0].name: values})
