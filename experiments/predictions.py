"""A image of faces with what the model guesses and what is recorded."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from agegender import Predictor
from agegender.inference.drawing import describe_face
from agegender.schema import AGE, GENDER, GENDERS

_ROWS, _COLUMNS = 3, 8  # of the sheet


def draw_predictions(predictor: Predictor, dataset: Any, path: pathlib.Path) -> Any:
    """Writes a PNG of the first faces of a dataset, each with its guesses above what is recorded.

    Args:
        predictor: guesses.
        dataset: batches of (images, targets); the first 24 images of its first batch are drawn.
        path: the file to write.

    Returns:
        The path.
    """
    from matplotlib.figure import Figure

    images, targets = next(iter(dataset))
    images = np.asarray(images)[: _ROWS * _COLUMNS]
    answers: Any = predictor(list(images), aligned=True)  # arrays can be used, so no error is among them
    figure = Figure(figsize=(1.5 * _COLUMNS, 2.0 * _ROWS), layout="constrained")
    for axes in figure.subplots(_ROWS, _COLUMNS).flat:
        axes.axis("off")
    for index, (axes, faces) in enumerate(zip(figure.axes, answers, strict=False)):
        axes.imshow(images[index])
        guess = describe_face(faces[0], "\n")
        axes.set_title(f"{guess}\nrecorded: {_recorded(targets, index)}", fontsize=8)
    figure.savefig(path, dpi=100)
    return path


def _recorded(targets: Mapping[str, Any], index: int) -> str:
    return f"{float(targets[AGE][index, 0]):.0f} {GENDERS[int(targets[GENDER][index, 0])]}"
