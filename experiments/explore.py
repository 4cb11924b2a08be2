r"""Draws the prepared data set: ages by gender, the splits side by side, and a sheet of faces.

    python -m experiments.explore --out=runs/look --ages=60,70 --genders=female --races=Asian

Writes ages.png, splits.png and faces.png, random faces that match the flags. Faces of UTKFace may not be published.
"""

import io
import pathlib
from typing import Any

import numpy as np
from absl import flags
from matplotlib.figure import Figure
from PIL import Image

from agegender.environment import set_environment
from agegender.schema import (
    AGE,
    AGE_CONFLICT,
    FILE_NAME,
    GENDER,
    GENDER_CONFLICT,
    GENDERS,
    IMAGE,
    MAX_AGE,
    RACE,
    RACES,
)
from experiments import command

Labels = dict[str, np.ndarray]  # a column [images] for each label, and "split"
_LABELS = (AGE, GENDER, RACE, FILE_NAME, AGE_CONFLICT, GENDER_CONFLICT)


def explore(
    out: pathlib.Path, *, data_dir: str | None = None, faces: int = 40, seed: int = 0, **conditions: Any
) -> str:
    """Draws the labels and some faces of the prepared data set into the folder `out`.

    Args:
        out: folder to write PNG files to.
        data_dir: where `tfds build` wrote; None is the folder of TFDS.
        faces: the most faces on the sheet.
        seed: of the random choice of faces.
        **conditions: which faces to draw, as for `agegender.data.filters.LabelFilter`.

    Returns:
        A table of the splits, and the number of matching images.
    """
    set_environment()
    from agegender.data import prepared
    from agegender.data.filters import LabelFilter

    matches = LabelFilter(**conditions)
    builder = prepared.find_prepared(data_dir)
    prepared.require_features(builder, "explore", _LABELS, f"data_dir={data_dir!r}")
    splits = list(builder.info.splits)
    columns = [prepared.read_labels(builder, split, _LABELS) for split in splits]
    labels = {key: np.concatenate([each[key] for each in columns]) for key in columns[0]}
    labels["split"] = np.repeat(splits, [len(each[AGE]) for each in columns])

    out.mkdir(parents=True, exist_ok=True)
    draw_ages(labels).savefig(out / "ages.png", dpi=150)
    draw_splits(labels).savefig(out / "splits.png", dpi=150)
    lines = [f"{'':<12}{'images':>10}{'mean age':>10}{'female':>9}{'conflicts':>11}"]
    for name, rows in _split_rows(labels).items():
        conflicts = np.sum((labels[AGE_CONFLICT] | labels[GENDER_CONFLICT])[rows] != 0)
        ages, genders = labels[AGE][rows], labels[GENDER][rows]
        lines.append(f"{name:<12}{rows.sum():>10,}{ages.mean():>10.2f}{genders.mean():>9.1%}{conflicts:>11,}")

    matching = np.flatnonzero(matches.matches(labels))
    chosen = np.sort(np.random.default_rng(seed).permutation(matching)[:faces]).tolist()
    if chosen:
        wanted = set(chosen)
        examples = (each for split in splits for each in prepared.read_encoded(builder, split, [IMAGE]))
        encoded = (each[IMAGE].numpy() for row, each in enumerate(examples) if row in wanted)
        draw_faces([_decode(each) for each in encoded], labels, chosen).savefig(out / "faces.png", dpi=100)
    return "\n".join([*lines, f"{len(matching):,} images match, {len(chosen)} drawn in {out}"])


def draw_ages(labels: Labels) -> Figure:
    """Draws a histogram of ages, the genders stacked."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    ages = [labels[AGE][labels[GENDER] == code] for code in range(len(GENDERS))]
    names = [f"{gender} ({len(some):,})" for gender, some in zip(GENDERS, ages, strict=True)]
    axes.hist(ages, range(MAX_AGE + 2), stacked=True, label=names)
    axes.set(xlabel="age, years", ylabel="images")
    axes.legend(frameon=False)
    return figure


def draw_splits(labels: Labels) -> Figure:
    """Draws the ages of the splits over one another, and their shares of women and of each race side by side."""
    figure = Figure(figsize=(6, 6), layout="constrained")
    above, below = figure.subplots(2)
    splits = _split_rows(labels)
    for index, (name, rows) in enumerate(splits.items()):
        above.hist(labels[AGE][rows], range(0, MAX_AGE + 5, 5), density=True, histtype="step", label=name)
        races = np.bincount(labels[RACE][rows], minlength=len(RACES)) / rows.sum()
        heights = [labels[GENDER][rows].mean(), *races]
        bars = below.bar(np.arange(len(heights)) + 0.8 * index / len(splits), heights, 0.7 / len(splits), label=name)
        below.bar_label(bars, fmt="{:.0%}", fontsize=7)
    above.set(xlabel="age, years", ylabel="share of the images, per year")
    below.set(ylabel="share of the images")
    below.set_xticks(np.arange(1 + len(RACES)) + 0.3, ["female", *RACES])
    above.legend(frameon=False)
    return figure


def draw_faces(images: list[np.ndarray], labels: Labels, rows: list[int]) -> Figure:
    """Draws images in rows of eight, each below its labels."""
    lines = -(-len(images) // 8)
    figure = Figure(figsize=(12, 2 * lines), layout="constrained")
    for axes in figure.subplots(lines, 8, squeeze=False).flat:
        axes.axis("off")
    for axes, image, row in zip(figure.axes, images, rows, strict=False):
        axes.imshow(image)
        name = labels[FILE_NAME][row].decode().split(".")[0]
        person = f"{labels[AGE][row]} {GENDERS[labels[GENDER][row]]} {RACES[labels[RACE][row]]}"
        axes.set_title(f"{person}\n{name}", fontsize=7)
    return figure


def _decode(encoded: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))


def _split_rows(labels: Labels) -> dict[str, np.ndarray]:
    return {str(name): labels["split"] == name for name in dict.fromkeys(labels["split"].tolist())}


def main(_: list[str]) -> None:
    values = flags.FLAGS
    options: Any = {name: values[name].value for name in ("data_dir", "genders", "races", "faces", "seed")}
    ages = values.ages and tuple(map(int, values.ages))
    print(explore(pathlib.Path(values.out), ages=ages, **options))


if __name__ == "__main__":
    flags.DEFINE_string("data_dir", None, "Where `tfds build` wrote; by default ~/tensorflow_datasets.")
    flags.DEFINE_string("out", None, "Folder for the PNG files.", required=True)
    flags.DEFINE_list("ages", None, "Lowest and highest age of the faces to draw: 60,70.")
    flags.DEFINE_list("genders", None, "Genders of the faces to draw.")
    flags.DEFINE_list("races", None, "Races of the faces to draw.")
    flags.DEFINE_integer("faces", 40, "The most faces to draw.", lower_bound=1, upper_bound=400)
    flags.DEFINE_integer("seed", 0, "Seed of the choice of faces.", lower_bound=0)
    command.run(main)
