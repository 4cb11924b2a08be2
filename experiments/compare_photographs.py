r"""Compares the predictions of several models for the same photographs with those of the first.

    agegender evaluate --labels=photographs/labels.csv --model=runs/1 --out=1
    agegender evaluate --labels=photographs/labels.csv --model=runs/2 --out=2
    python -m experiments.compare_photographs --predictions=1/predictions.csv --predictions=2/predictions.csv

Prints each measure with the difference to the first model and its 95 % bootstrap interval over photographs.
"""

import numpy as np
from absl import flags
from numpy.typing import NDArray

from experiments import command


def read_scores(path: str) -> tuple[list[str], dict[str, NDArray[np.float64]]]:
    """Returns the files of a predictions.csv and what `score_photographs` says of each."""
    from agegender.evaluation.photographs import read_labels, score_photographs
    from agegender.evaluation.predictions import P_FEMALE, PREDICTED_AGE, read_csv

    labels, columns = read_labels(path), read_csv(path)
    if missing := {PREDICTED_AGE, P_FEMALE} - set(columns):
        raise ValueError(f"{path} must be a predictions.csv of `agegender evaluate --labels`. Missing: {missing}")
    ages, p_female = (np.array(columns[key], "float64") for key in (PREDICTED_AGE, P_FEMALE))
    return labels.files, score_photographs(labels, ages, p_female)


def compare(paths: list[str]) -> str:
    """Returns the measures of each predictions.csv, with the differences to the first, as a Markdown table."""
    from agegender.evaluation.metrics import resample
    from agegender.evaluation.photographs import mean_interval

    (files, first), *others = [read_scores(path) for path in paths]
    for path, (other_files, scores) in zip(paths[1:], others, strict=True):
        if other_files != files or set(scores) != set(first):
            raise ValueError(f"All must have the same photographs and labels. Received: {paths[0]} and {path}")
    lines = ["| | " + " | ".join(first) + " |", "|---|" + "---|" * len(first)]
    lines.append(f"| {paths[0]} | " + " | ".join(f"{np.nanmean(column):.3f}" for column in first.values()) + " |")
    weights = resample(np.arange(len(files)))
    for path, (_, scores) in zip(paths[1:], others, strict=True):
        cells = []
        for key, column in scores.items():
            difference = column - first[key]
            ends = mean_interval(difference, weights)
            between = f" ({ends[0]:+.3f} to {ends[1]:+.3f})" if ends else ""
            cells.append(f"{np.nanmean(column):.3f}, {np.nanmean(difference):+.3f}{between}")
        lines.append(f"| {path} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(_: list[str]) -> None:
    paths = flags.FLAGS.predictions
    if len(paths) < 2:
        raise ValueError(f"--predictions must be given at least twice. Received: {paths}")
    print(compare(paths))


if __name__ == "__main__":
    flags.DEFINE_multi_string("predictions", [], "The predictions.csv of a model; at least twice.")
    command.run(main)
