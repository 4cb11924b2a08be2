r"""Evaluates a trained run on a split and draws some of its predictions.

    python -m experiments.evaluate --workdir=runs/1 --split=test

Writes report-SPLIT.json and predictions-SPLIT.png into the workdir.
"""

import functools
import json
import os
import pathlib
import sys

from absl import app, flags, logging

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run, or a .keras file.", required=True)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where `tfds build` wrote; by default ~/tensorflow_datasets.")
_SPLIT = flags.DEFINE_string("split", "test", "train, validation, test, or a slice such as 'test[:10%]'.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Pictures a step.", lower_bound=1)


def evaluate_run(workdir: pathlib.Path, split: str, *, data_dir: str | None = None, batch_size: int = 64) -> str:
    """Evaluates the best model of a run and writes report and picture beside it.

    Returns:
        The report as a table.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    import agegender as ag
    from experiments.predictions import draw_predictions

    predictor = ag.Predictor(workdir)
    load = functools.partial(
        ag.load_utkface, split, batch_size=batch_size, image_size=predictor.model.input_shape[1], data_dir=data_dir
    )
    report = ag.evaluate(predictor.model, load(), verbose=1)
    folder = workdir if workdir.is_dir() else workdir.parent
    name = "".join(letter if letter.isalnum() else "_" for letter in split)
    (folder / f"report-{name}.json").write_text(json.dumps(report.to_dict(), indent=2) + "\n")
    draw_predictions(predictor, load(), folder / f"predictions-{name}.png")
    return str(report)


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)  # TFDS tells of each file it opens
    try:
        workdir = pathlib.Path(_WORKDIR.value)
        print(evaluate_run(workdir, _SPLIT.value, data_dir=_DATA_DIR.value, batch_size=_BATCH_SIZE.value))
    except (OSError, FloatingPointError) as error:
        sys.exit(f"{type(error).__name__}: {error}")  # the words say it all; a traceback would hide them


if __name__ == "__main__":
    app.run(main)
