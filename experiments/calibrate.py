r"""Fits age intervals and the gender's temperature of a trained run on the validation split.

    python -m experiments.calibrate --workdir=runs/1 --coverage=0.95 --flip

Writes calibration.json beside the model, where the `Predictor` finds it.
"""

import os
import pathlib
import sys
from typing import TYPE_CHECKING

from absl import app, flags, logging

if TYPE_CHECKING:
    from agegender import Calibration

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run, or a .keras file.", required=True)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where `tfds build` wrote; by default ~/tensorflow_datasets.")
_COVERAGE = flags.DEFINE_float("coverage", 0.95, "The share of age intervals that are to hold the recorded age.")
_FLIP = flags.DEFINE_bool("flip", False, "Answer with the mean over a picture and its mirror image.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Pictures a step.", lower_bound=1)


def calibrate_run(
    workdir: pathlib.Path,
    data_dir: str | None = None,
    *,
    coverage: float = 0.95,
    flip: bool = False,
    batch_size: int = 64,
) -> "Calibration":
    """Calibrates the best model of a run on the validation split and writes calibration.json beside it.

    Args:
        workdir: folder of the run, or a `.keras` file.
        data_dir: where `tfds build` wrote; by default TFDS's own folder.
        coverage: the share of intervals that are to hold the recorded age, between 0 and 1.
        flip: whether to answer with the mean over a picture and its mirror image; the `Predictor` then does too.
        batch_size: pictures a step.

    Returns:
        What was written.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    import agegender as ag
    from agegender.evaluation import predict_all
    from agegender.predict import load_model

    model = load_model(workdir)
    validation = ag.load_utkface(
        "validation", batch_size=batch_size, image_size=model.input_shape[1], data_dir=data_dir
    )
    calibration = ag.calibrate(*predict_all(model, validation, flip=flip), coverage=coverage, flip=flip)
    calibration.save(workdir if workdir.is_dir() else workdir.parent)
    return calibration


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)  # TFDS tells of each file it opens
    try:
        calibration = calibrate_run(
            pathlib.Path(_WORKDIR.value),
            _DATA_DIR.value,
            coverage=_COVERAGE.value,
            flip=_FLIP.value,
            batch_size=_BATCH_SIZE.value,
        )
    except (OSError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")  # the words say it all; a traceback would hide them
    print(f"Calibrated on {calibration.count} pictures, gender temperature {calibration.temperature}")
    for age in range(10, 90, 10) if calibration.ages else ():
        low, high = calibration.intervals(age)
        print(f"guess {age}: {low:.0f} to {high:.0f} years, promised for {calibration.coverage:.0%}")


if __name__ == "__main__":
    app.run(main)
