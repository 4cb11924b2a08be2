r"""Evaluates a trained model on a split, or compares several, and writes a report.

    python -m experiments.evaluate --workdir=runs/1 --split=test
    python -m experiments.evaluate --workdir=runs/1 --workdir=runs/2 --out=runs/compared
    python -m experiments.evaluate --predictions=ours.csv --predictions=theirs.csv --out=runs/compared

Writes WORKDIR/evaluation-SPLIT: report.html with plots, report.json, predictions.csv with every prediction, and
errors.html and predictions.png, which show faces: those of UTKFace must not be published. With several models, compares
the others with the first on the same images: comparison.html and comparison.json. A model is a run, a .keras file, or
the predictions.csv of any model; AGE+GENDER joins two that have one head each.
"""

import functools
import pathlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from agegender.schema import BEST_MODEL
from experiments import command
from experiments.compare import folder_of, report_or_compare

if TYPE_CHECKING:
    from agegender import Report


def evaluate_and_print(
    model: pathlib.Path,
    split: str = "test",
    *,
    data_dir: str | None = None,
    out: pathlib.Path | None = None,
    flip: bool | None = None,
    batch_size: int = 64,
) -> "Report":
    """Evaluates a run, writes the report to `out` or beside the model, and prints it.

    The arguments are those of `agegender.evaluation.evaluate.evaluate_run`.
    """
    from agegender.evaluation.evaluate import evaluate_run

    out = out or _report_folder(model, split, flip)
    verbose = int(sys.stderr.isatty())
    report = evaluate_run(model, split, data_dir=data_dir, out=out, flip=flip, batch_size=batch_size, verbose=verbose)
    print(f"\n{report}\n\nReport: {out / 'report.html'}")
    print(f"Predictions and largest errors, which show faces: {out / 'predictions.png'}, {out / 'errors.html'}")
    return report


def main(_: list[str]) -> None:
    values = flags.FLAGS
    evaluate = functools.partial(
        evaluate_and_print,
        split=values.split,
        data_dir=values.data_dir,
        batch_size=values.batch_size,
        flip=values.flip,
    )
    out = pathlib.Path(values.out) if values.out else None
    print(report_or_compare(_split_commas(values.workdir), _split_commas(values.predictions), out, evaluate))


def _report_folder(model: pathlib.Path, split: str, flip: bool | None) -> pathlib.Path:
    """A folder beside the model for each split, model other than the best one, and value of --flip if given."""
    name = "".join(letter if letter.isalnum() else "_" for letter in split)
    other_model = f"-{model.stem}" if model.suffix == ".keras" and model.name != BEST_MODEL else ""
    flipped = "" if flip is None else "-flip" if flip else "-noflip"
    return folder_of(model) / f"evaluation-{name}{other_model}{flipped}"


def _split_commas(paths: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(path for group in paths for path in group.split(",")))


if __name__ == "__main__":
    flags.DEFINE_multi_string("workdir", [], "Folder of a run, or a .keras file. May be given several times.")
    flags.DEFINE_multi_string("predictions", [], "A predictions.csv to compare, after the runs.")
    flags.DEFINE_string("data_dir", None, "Where `tfds build` wrote; by default as run.json says.")
    flags.DEFINE_string("split", "test", "train, validation, test, all, or a slice such as 'test[:10%]'.")
    flags.DEFINE_integer("batch_size", 64, "Images a step.", lower_bound=1)
    flags.DEFINE_bool(
        "flip", None, "Average the predictions for an image and its mirror image; by default as calibrated."
    )
    flags.DEFINE_string("out", None, "Folder to write to; by default evaluation-SPLIT or comparison in the workdir.")
    command.run(main)
