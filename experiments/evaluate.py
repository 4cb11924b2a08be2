r"""Evaluates a trained run on a split, or several and how they differ, and writes a report.

    python -m experiments.evaluate --workdir=runs/1 --split=test
    python -m experiments.evaluate --workdir=runs/1 --workdir=runs/2 --out=runs/compared
    python -m experiments.evaluate --predictions=ours.csv --predictions=theirs.csv --out=runs/compared

Writes WORKDIR/evaluation-SPLIT: report.html, one page that needs nothing else, the same as report.md with plots,
report.json, predictions.csv with every prediction, and errors.html and predictions.png, which show faces: those of
UTKFace may not be published. Of several, the first is what the others are compared with, on the same images: in
comparison.html, comparison.md and comparison.json. Each may be a run, or a predictions.csv of anybody's model;
AGE+GENDER joins two that have one head each.
"""

import functools
import pathlib
from collections.abc import Sequence

from absl import app, flags

from experiments.command import in_words
from experiments.compare import report_or_compare
from experiments.runs import evaluate_run

_WORKDIR = flags.DEFINE_multi_string("workdir", [], "Folder of a run, or a .keras file. May be given several times.")
_PREDICTIONS = flags.DEFINE_multi_string("predictions", [], "A predictions.csv to compare, after the runs.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where `tfds build` wrote; by default ~/tensorflow_datasets.")
_SPLIT = flags.DEFINE_string("split", "test", "train, validation, test, all, or a slice such as 'test[:10%]'.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images a step.", lower_bound=1)
_FLIP = flags.DEFINE_bool(
    "flip", None, "Answer with the mean over each image and its mirror image; by default as the run was calibrated."
)
_OUT = flags.DEFINE_string(
    "out",
    None,
    "Folder to write to; by default evaluation-SPLIT, or comparison, in the (first) workdir.",
)


def _paths(given: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(path for paths in given for path in paths.split(",")))


@in_words()
def main(_: list[str]) -> None:
    measure_run = functools.partial(
        evaluate_run, split=_SPLIT.value, data_dir=_DATA_DIR.value, batch_size=_BATCH_SIZE.value, flip=_FLIP.value
    )
    out = pathlib.Path(_OUT.value) if _OUT.value else None
    print(report_or_compare(_paths(_WORKDIR.value), _paths(_PREDICTIONS.value), out, measure_run))


if __name__ == "__main__":
    app.run(main)
