r"""Fits age intervals and the temperature of the gender head on the validation split.

    python -m experiments.calibrate --workdir=runs/1 --coverage=0.95 --flip

Writes calibration.json beside the model, where the `Predictor` finds it. `experiments.train` does the same at its end.
"""

import json
import pathlib
import re
from typing import TYPE_CHECKING, Any

from absl import flags

import agegender as ag
from agegender.schema import SPLITS
from experiments import command

if TYPE_CHECKING:
    from agegender import Calibration


def calibrate_run(
    workdir: pathlib.Path,
    data_dir: str | None = None,
    *,
    split: str = "validation",
    batch_size: int = 64,
    flip: bool = False,
    **options: Any,
) -> "Calibration":
    """Calibrates the best model of a run and writes calibration.json beside it.

    Args:
        workdir: folder of the run, or a `.keras` file.
        data_dir: where `tfds build` wrote; None is what run.json names, or TFDS's own folder.
        split: images that were not trained on, as in `load_utkface`; others are refused.
        batch_size: images a step.
        flip: as in `agegender.calibrate`.
        **options: others of `agegender.calibrate`.
    """
    from agegender.evaluation.evaluate import predict_dataset
    from agegender.models.saving import load_model
    from agegender.training.run_record import read_data_dir

    train_split = read_train_split(workdir)
    if overlap(train_split, split):
        raise ValueError(f"{workdir} was trained on images to calibrate on. Received: {train_split=}, {split=}")
    model = load_model(workdir)
    data_dir = data_dir or read_data_dir(workdir)
    dataset = ag.load_utkface(split, batch_size=batch_size, image_size=model.input_shape[1], data_dir=data_dir)
    calibration = ag.calibrate(*predict_dataset(model, dataset, flip=flip), flip=flip, **options)
    calibration.save(workdir if workdir.is_dir() else workdir.parent)
    return calibration


def read_train_split(folder: pathlib.Path) -> str:
    """The split that the model of a run or of a released folder was trained on; "" if nothing says so."""
    from agegender.training.run_record import read_record

    folder = folder if folder.is_dir() else folder.parent
    return ((read_record(folder) or read_recipe(folder)).get("config") or {}).get("train_split", "")


def read_recipe(folder: pathlib.Path) -> dict[str, Any]:
    """The recipe.json of `experiments.release` in a folder; {} if it has none."""
    path = folder / "recipe.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def overlap(split: str, other: str) -> bool:
    """Whether two splits, or slices of them, name the same split of the data set.

    >>> overlap("train+validation[:50%]", "validation"), overlap("all", "test"), overlap("train", "validation+test")
    (True, True, False)
    """
    return bool(_list_splits(split) & _list_splits(other))


def _list_splits(split: str) -> set[str]:
    names = set(re.findall(r"[a-z]+", split))
    return set(SPLITS) if "all" in names else names


def main(_: list[str]) -> None:
    values = flags.FLAGS
    options: dict[str, Any] = {
        name: values[name].value for name in ("coverage", "flip") if values[name].value is not None
    }
    calibration = calibrate_run(pathlib.Path(values.workdir), values.data_dir, batch_size=values.batch_size, **options)
    print(f"Calibrated on {calibration.count} images; gender temperature {calibration.temperature}")
    for age in range(10, 90, 10) if calibration.ages else ():
        low, high = calibration.intervals(age)
        print(f"predicted {age}: {low:.0f} to {high:.0f} years with {calibration.coverage:.0%} coverage")


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Folder of a run, or a .keras file.", required=True)
    flags.DEFINE_string("data_dir", None, "Where `tfds build` wrote; by default as run.json says.")
    flags.DEFINE_float(
        "coverage", None, "Share of age intervals that should contain the recorded age; 0.95 if not given."
    )
    flags.DEFINE_bool("flip", None, "Average the predictions for an image and its mirror image.")
    flags.DEFINE_integer("batch_size", 64, "Images a step.", lower_bound=1)
    command.run(main)
