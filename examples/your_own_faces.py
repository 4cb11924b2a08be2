"""Trains on photographs of your own: a folder of images, and a table that says age and gender of the face in each.

    python examples/your_own_faces.py --images=FOLDER --labels=labels.csv --out=runs/mine

The table is a CSV file with the columns `file`, a path within the folder; `age`, 0 to 116 whole years; `gender`, male
or female; and, where it is known, `race`, one of `agegender.schema.RACES`, which serves to measure and not to train. A
image shows one face. What cannot be used is listed and left out. Exit status: 0 done; 2 an error, or nothing is left;
75 stopped by a signal: the same command goes on.

Faces are cut as the `Predictor` cuts them, so that the model learns from what it will see, and named as UTKFace names
its own, so that the builder reads them. The builder keeps near-identical images on one side of the split, but does
not know who is in them: a person with several photographs may be on both sides, and the numbers are too good then.

It begins with the released model, which is for non-commercial research only, as is all that is made from it. Images
that are named and cut as those of UTKFace need none of this: `make train UTKFACE=FOLDER`.
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
from agegender.schema import GENDERS, MAX_AGE, MIN_AGE, RACES
from agegender.training.run_record import FINISHED, read_record

_IMAGES = flags.DEFINE_string("images", None, "Folder of the photographs.", required=True)
_LABELS = flags.DEFINE_string("labels", None, "CSV file with the columns file, age and gender.", required=True)
_OUT = flags.DEFINE_string("out", None, "Folder for the faces, the prepared data and the run.", required=True)
_MODEL = flags.DEFINE_string("model", None, "To begin with: a run or a .keras file; by default the released model.")
_EPOCHS = flags.DEFINE_integer("epochs", 10, "Passes over the training images.", lower_bound=1)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Images a step.", lower_bound=1)

COLUMNS = ("file", "age", "gender")
BUILDER = pathlib.Path(__file__).absolute().parent.parent / "datasets"


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)  # TFDS tells of each file it opens
    set_environment()
    images, out = pathlib.Path(_IMAGES.value), pathlib.Path(_OUT.value)
    try:
        if FINISHED in read_record(out / "run"):
            raise FileExistsError(f"`--out` must be a folder without a finished run. Received: --out={out}")
        used = cut_faces(read_table(pathlib.Path(_LABELS.value)), images, out / "faces")
        build(out / "faces", out / "prepared")
        train_and_measure(out / "prepared", out / "run")
        ag.Predictor(out / "run").draw(used[0]).save(out / "answer.png")
    except (OSError, ValueError, FloatingPointError, csv.Error) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"An answer: {out / 'answer.png'}\nMore of them: agegender predict --model={out / 'run'} {images}")


def read_table(path: pathlib.Path) -> list[dict[str, str]]:
    """Reads the rows of the table, each a text at the name of its column."""
    with path.open(newline="", encoding="utf-8-sig") as file:  # Excel begins a file with a mark
        table = csv.DictReader(file)
        missing = [column for column in COLUMNS if column not in (table.fieldnames or ())]
        if missing:
            raise ValueError(f"{path} must have the columns {COLUMNS}. Missing: {missing}. Found: {table.fieldnames}")
        return [{key: value.strip() for key, value in row.items() if isinstance(value, str)} for row in table]


def cut_faces(rows: list[dict[str, str]], images: pathlib.Path, folder: pathlib.Path) -> list[pathlib.Path]:
    """Writes the face of each image and returns the images that had one; lists the others with the reason."""
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
                raise ValueError(f"{path}: {len(found) or 'no'} faces were found, one is wanted")
            face = align_face(image, found[0].landmarks)
        except ValueError as reason:  # a ImageError is one
            print(f"Left out, row {number}: {reason}")
            continue
        # Where UTKFace has the date, the number of the row makes the name the only one.
        face.save(folder / f"{age}_{gender}_{race}_{number:08d}.jpg", quality=95)
        used.append(path)
    print(f"{len(used)} of {len(rows)} images can be used.", flush=True)
    if not used:
        raise ValueError(f"There is nothing to train on. Received: {len(rows)} rows")
    return used


def read_labels(row: Mapping[str, str]) -> tuple[int, int, int]:
    """Reads age in years and the codes of gender and race; a race that is not known is "Others"."""
    age, gender, race = row.get("age", ""), row.get("gender", "").lower(), row.get("race") or "Others"
    if not (age.isascii() and age.isdigit() and MIN_AGE <= int(age) <= MAX_AGE):
        raise ValueError(f"`age` must be a whole number in {MIN_AGE}..{MAX_AGE}. Received: age={age!r}")
    if gender not in GENDERS:
        raise ValueError(f"`gender` must be one of {GENDERS}. Received: gender={gender!r}")
    if race not in RACES:
        raise ValueError(f"`race` must be one of {RACES}, or empty. Received: race={race!r}")
    return int(age), GENDERS.index(gender), RACES.index(race)


def build(faces: pathlib.Path, prepared: pathlib.Path) -> None:
    """Prepares the data set anew, for TFDS would reuse what has gone stale."""
    command = [str(pathlib.Path(sys.executable).with_name("tfds")), "build", "utkface", "--overwrite"]
    command += [f"--manual_dir={faces.absolute()}", f"--data_dir={prepared.absolute()}"]
    done = subprocess.run(command, cwd=BUILDER, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"`tfds build` failed: {done.stderr[-2000:]}")


def train_and_measure(prepared: pathlib.Path, workdir: pathlib.Path) -> None:
    """Goes on with a trained model on these faces, and reports on those that it has not seen."""
    model = ag.Predictor(_MODEL.value).model
    load = functools.partial(ag.load_utkface, image_size=model.input_shape[1], data_dir=prepared)
    train = load("train", batch_size=_BATCH_SIZE.value, training=True, seed=1)
    validation = load("validation", batch_size=64)
    test = load("test", batch_size=64, labels=("race", "file_name", "group"))
    epochs = _EPOCHS.value
    # A tenth of the usual rate: these weights know faces already.
    optimizer = ag.make_optimizer(steps=epochs * train.steps_per_epoch, learning_rate=3e-5)
    augmentation = ag.Augmentation(width_shift=0.05, height_shift=0.05, zoom=0.05, seed=1)
    ag.train(model, train, validation, workdir=workdir, epochs=epochs, augmentation=augmentation, optimizer=optimizer)
    report = ag.evaluate(ag.Predictor(workdir).model, test)
    print(f"\nThe best epoch on the test split:\n{report}\n\nReport: {ag.write_report(report, workdir / 'report')}")


if __name__ == "__main__":
    app.run(main)
