r"""Fits age intervals and the gender's temperature of a trained run on the validation split.

    python -m experiments.calibrate --workdir=runs/1 --coverage=0.95 --flip

Writes calibration.json beside the model, where the `Predictor` finds it.
"""

import pathlib

from absl import app, flags

from experiments.command import in_words
from experiments.runs import calibrate_run

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run, or a .keras file.", required=True)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where `tfds build` wrote; by default ~/tensorflow_datasets.")
_COVERAGE = flags.DEFINE_float("coverage", 0.95, "The share of age intervals that are to hold the recorded age.")
_FLIP = flags.DEFINE_bool("flip", False, "Answer with the mean over a image and its mirror image.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Images a step.", lower_bound=1)


@in_words()
def main(_: list[str]) -> None:
    calibration = calibrate_run(
        pathlib.Path(_WORKDIR.value),
        _DATA_DIR.value,
        coverage=_COVERAGE.value,
        flip=_FLIP.value,
        batch_size=_BATCH_SIZE.value,
    )
    print(f"Calibrated on {calibration.count} images, gender temperature {calibration.temperature}")
    for age in range(10, 90, 10) if calibration.ages else ():
        low, high = calibration.intervals(age)
        print(f"guess {age}: {low:.0f} to {high:.0f} years, promised for {calibration.coverage:.0%}")


if __name__ == "__main__":
    app.run(main)
