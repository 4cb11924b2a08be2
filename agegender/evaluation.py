"""Measure a model on a split, beside answering the same for everybody."""

import dataclasses
from typing import Any

import keras
import numpy as np

from agegender import metrics
from agegender.schema import AGE, GENDER

_ROWS = {
    "mae": ("age MAE, years", "{:.2f}"),
    "rmse": ("age RMSE, years", "{:.2f}"),
    "cs5": ("age CS@5", "{:.1%}"),
    "gender_accuracy": ("gender accuracy", "{:.1%}"),
}


@dataclasses.dataclass(frozen=True)
class Report:
    """What `evaluate` measured; `print(report)` shows a table.

    Attributes:
        count: number of pictures.
        model: `{"mae", "rmse"}` in years, `{"cs5", "gender_accuracy"}` between 0 and 1; those of the model's heads.
        constant: the same for always answering these pictures' own median age and more frequent gender.
    """

    count: int
    model: dict[str, float]
    constant: dict[str, float]

    def __str__(self) -> str:
        lines = [f"{f'{self.count} pictures':<18} {'model':>8} {'always the median or majority':>31}"]
        for key, (label, form) in _ROWS.items():
            if key in self.model:
                lines.append(f"{label:<18} {form.format(self.model[key]):>8} {form.format(self.constant[key]):>31}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain Python values, ready for JSON."""
        return dataclasses.asdict(self)


def evaluate(model: keras.Model, dataset: Any, *, verbose: int = 0) -> Report:
    """Measures a model on pictures with known answers.

    Args:
        model: from `build_model`, or loaded from a `.keras` file of a run.
        dataset: finite batches of (pictures, targets), as from `load_utkface("test", batch_size=64)`.
        verbose: 1 shows a progress bar.

    Returns:
        A `Report`; its words are defined in `agegender.metrics`.

    Raises:
        ValueError: if the dataset is endless, empty or lacks the targets of a head.

    Example: `print(evaluate(model, load_utkface("test", batch_size=64)))`
    """
    targets, outputs = predict_all(model, dataset, verbose=verbose)
    count = len(next(iter(outputs.values())))
    return Report(count, _measure(targets, outputs), _measure(targets, _constant_answers(targets)))


def predict_all(model: keras.Model, dataset: Any, *, verbose: int = 0) -> tuple[dict, dict]:
    """Runs a model over a dataset and keeps what was asked and answered, in order.

    Returns:
        Targets and outputs, each `{head: float32 [pictures]}`.
    """
    if hasattr(dataset, "steps_per_epoch"):
        raise ValueError("`dataset` must end. Received one made with training=True, which repeats without end")
    asked, answered = [], []
    bar = keras.utils.Progbar(len(dataset) if hasattr(dataset, "__len__") else None, verbose=verbose)
    for pictures, targets in dataset:
        outputs = model.predict_on_batch(np.asarray(pictures))
        asked.append({head: _column(targets, head) for head in outputs})
        answered.append({head: np.asarray(outputs[head]).ravel() for head in outputs})
        bar.add(1)
    if not asked:
        raise ValueError("`dataset` must hold at least one batch. Received an empty one")
    return _join(asked), _join(answered)


def _column(targets: dict, head: str) -> np.ndarray:
    if head not in targets:
        raise ValueError(f"`dataset` must give targets for {head!r}. Received targets: {sorted(targets)}")
    return np.asarray(targets[head]).ravel()


def _join(batches: list[dict]) -> dict[str, np.ndarray]:
    return {head: np.concatenate([batch[head] for batch in batches]) for head in batches[0]}


def _constant_answers(targets: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    answers = {}
    if AGE in targets:
        answers[AGE] = np.full_like(targets[AGE], np.median(targets[AGE]))
    if GENDER in targets:
        answers[GENDER] = np.full_like(targets[GENDER], np.mean(targets[GENDER]) >= 0.5)
    return answers


def _measure(targets: dict[str, np.ndarray], outputs: dict[str, np.ndarray]) -> dict[str, float]:
    numbers = {}
    if AGE in outputs:
        ages, predicted = targets[AGE], outputs[AGE]
        numbers["mae"] = metrics.mean_absolute_error(ages, predicted)
        numbers["rmse"] = metrics.root_mean_squared_error(ages, predicted)
        numbers["cs5"] = metrics.cumulative_score(ages, predicted, years=5)
    if GENDER in outputs:
        numbers["gender_accuracy"] = metrics.gender_accuracy(targets[GENDER], outputs[GENDER])
    return numbers
