"""A picture of faces with what the model guesses and what is recorded."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from agegender import Predictor
from agegender.drawing import describe
from agegender.schema import AGE, GENDER, GENDERS


def draw_predictions(predictor: Predictor, dataset: Any, path: pathlib.Path, *, rows: int = 3, columns: int = 8) -> Any:
    """Writes a PNG of the first faces of a dataset, each with its guesses above what is recorded.

    Args:
        predictor: guesses.
        dataset: batches of (pictures, targets); the first `rows * columns` pictures of its first batch are drawn.
        path: the file to write.
        rows: of the sheet.
        columns: of the sheet.

    Returns:
        The path.
    """
    from matplotlib.figure import Figure

    pictures, targets = next(iter(dataset))
    pictures = np.asarray(pictures)[: rows * columns]
    answers: Any = predictor(list(pictures), aligned=True)  # arrays can be used, so no error is among them
    figure = Figure(figsize=(1.5 * columns, 2.0 * rows), layout="constrained")
    for axes in figure.subplots(rows, columns).flat:
        axes.axis("off")
    for index, (axes, faces) in enumerate(zip(figure.axes, answers, strict=False)):
        axes.imshow(pictures[index])
        axes.set_title(f"guess: {describe(faces[0])}\nlabel: {_recorded(targets, index)}", fontsize=8)
    figure.savefig(path, dpi=100)
    return path


def _recorded(targets: Mapping[str, Any], index: int) -> str:
    return f"{float(targets[AGE][index, 0]):.0f} {GENDERS[int(targets[GENDER][index, 0])]}"
