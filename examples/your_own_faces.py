"""Trains on your own photographs: a folder of images, and a table with age and gender of the face in each.

    python examples/your_own_faces.py --images=FOLDER --labels=labels.csv --out=runs/mine

The table is a CSV file with the columns `file`, a path in the folder; `age`, 0 to 116 whole years; `gender`, male or
female; and, if known, `race`, one of `agegender.schema.RACES`, which is used for evaluation only. Each image shows one
face. The script lists the rows that it skips. Exit status: 0 done; 2 an error, or no row is usable; 75 stopped by a
signal: the same command resumes the run.

Faces are aligned as the `Predictor` aligns them, and named as in UTKFace, so that the builder reads them. The builder
keeps near-identical images on one side of the split but does not know people: with several photographs of one person,
the numbers are too good.

Training starts from the released model, which is for non-commercial research only, and so is every model made from it.
Images that are named and aligned as in UTKFace need no script: `make train UTKFACE=FOLDER`.
"""

import csv
import functools
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Mapping

import numpy as np
from absl import app, flags, logging

import agegender as ag
from agegender.environment import set_environment
from agegender.inference.alignment import align_face
from agegender.models.saving import load_model
from agegender.released import find_released
from agegender.schema import GENDERS, MAX_AGE, MIN_AGE, RACES
from agegender.training.run_record import FINISHED, read_record

_IMAGES = flags.DEFINE_string("images", None, "Folder of the photographs.", required=True)
_LABELS = flags.DEFINE_string("labels", None, "CSV file with the columns file, age and gender.", required=True)
_OUT = flags.DEFINE_string("out", None, "Folder for faces, prepared data and run.", required=True)
_MODEL = flags.DEFINE_string("model", None, "Run or .keras file to start from; by default the released model.")
_EPOCHS = flags.DEFINE_integer("epochs", 10, "Passes over the training images.", lower_bound=1)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Images a step.", lower_bound=1)

COLUMNS = ("file", "age", "gender")
ROOT = pathlib.Path(__file__).absolute().parents[1]


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)  # TFDS logs every file that it opens
    set_environment()
    images, out = pathlib.Path(_IMAGES.value), pathlib.Path(_OUT.value)
    try:
        if FINISHED in read_record(out / "run"):
            raise FileExistsError(f"`--out` must be a folder without a finished run. Received: --out={out}")
        used = align_faces(read_table(pathlib.Path(_LABELS.value)), images, out / "faces")
        build(out / "faces", out / "prepared")
        train_and_measure(out / "prepared", out / "run")
        ag.Predictor(out / "run").draw(used[0]).save(out / "answer.png")
    except (OSError, ValueError, FloatingPointError, csv.Error) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"An answer: {out / 'answer.png'}\nMore: agegender predict --model={out / 'run'} {images}")


def read_table(path: pathlib.Path) -> list[dict[str, str]]:
    """Reads the rows of the table."""
    with path.open(newline="", encoding="utf-8-sig") as file:  # Excel writes a byte order mark
        table = csv.DictReader(file)
        missing = [column for column in COLUMNS if column not in (table.fieldnames or ())]
        if missing:
            raise ValueError(f"{path} must have the columns {COLUMNS}. Missing: {missing}. Found: {table.fieldnames}")
        return [{key: value.strip() for key, value in row.items() if isinstance(value, str)} for row in table]


def align_faces(rows: list[dict[str, str]], images: pathlib.Path, folder: pathlib.Path) -> list[pathlib.Path]:
    """Writes the aligned face of each image and returns the usable images; prints why the others are skipped."""
    from agegender.inference.detection import FaceDetector

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    detector, used = FaceDetector(), []
    for number, row in enumerate(rows, 1):
        path = images / row.get("file", "")
        try:
            age, gender, race = read_labels(row)
            image = ag.read_image(path)
            found = detector(np.asarray(image))
            if len(found) != 1:
                raise ValueError(f"{path}: {len(found) or 'no'} faces were found; an image must show one")
            face = align_face(image, found[0].landmarks)
        except ValueError as reason:  # ImageError is one
            print(f"Skipped row {number}: {reason}")
            continue
        # The row number, in the place of UTKFace's date, makes the name unique.
        face.save(folder / f"{age}_{gender}_{race}_{number:08d}.jpg", quality=95)
        used.append(path)
    print(f"{len(used)} of {len(rows)} images are usable.", flush=True)
    if not used:
        raise ValueError(f"The table must have usable rows. Received: {len(rows)} rows, all skipped")
    return used


def read_labels(row: Mapping[str, str]) -> tuple[int, int, int]:
    """Reads age in years and the codes of gender and race; an unknown race is "Others"."""
    age, gender, race = row.get("age", ""), row.get("gender", "").lower(), row.get("race") or "Others"
    if not (age.isascii() and age.isdigit() and MIN_AGE <= int(age) <= MAX_AGE):
        raise ValueError(f"`age` must be a whole number in {MIN_AGE}..{MAX_AGE}. Received: age={age!r}")
    if gender not in GENDERS:
        raise ValueError(f"`gender` must be one of {GENDERS}. Received: gender={gender!r}")
    if race not in RACES:
        raise ValueError(f"`race` must be one of {RACES}, or empty. Received: race={race!r}")
    return int(age), GENDERS.index(gender), RACES.index(race)


def build(faces: pathlib.Path, prepared: pathlib.Path) -> None:
    """Prepares the data set; overwrites, because TFDS would reuse stale data."""
    command = [str(pathlib.Path(sys.executable).with_name("tfds")), "build", "utkface", "--overwrite"]
    command += [f"--manual_dir={faces.absolute()}", f"--data_dir={prepared.absolute()}"]
    done = subprocess.run(command, cwd=ROOT / "datasets", capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"`tfds build` failed: {done.stderr[-2000:]}")


def train_and_measure(prepared: pathlib.Path, workdir: pathlib.Path) -> None:
    """Fine-tunes a trained model on the faces and measures the best epoch on the test split."""
    model = load_model(_MODEL.value or find_released())
    load = functools.partial(ag.load_utkface, image_size=model.input_shape[1], data_dir=prepared)
    train = load("train", batch_size=_BATCH_SIZE.value, training=True, seed=1)
    validation = load("validation", batch_size=64)
    test = load("test", batch_size=64, labels=("race", "file_name", "group"))
    epochs = _EPOCHS.value
    # A tenth of the usual rate, for trained weights.
    optimizer = ag.make_optimizer(steps=epochs * train.steps_per_epoch, learning_rate=3e-5)
    augmentation = ag.Augmentation(width_shift=0.05, height_shift=0.05, zoom=0.05, seed=1)
    ag.train(model, train, validation, workdir=workdir, epochs=epochs, augmentation=augmentation, optimizer=optimizer)
    report = ag.evaluate(load_model(workdir), test)
    print(f"\nThe best epoch on the test split:\n{report}\n\nReport: {ag.write_report(report, workdir / 'report')}")


if __name__ == "__main__":
    app.run(main)
