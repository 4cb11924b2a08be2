r"""Draws the prepared data set: ages by gender, the splits side by side, and sheets of faces.

    python -m experiments.explore --out=runs/look
    python -m experiments.explore --out=runs/look --where="male, 25" --where="female, 60-70, Asian" --where=conflict

Writes ages.png, splits.png and, for each --where, a sheet of random faces: faces_1.png, faces_2.png and so on. Faces of
UTKFace may not be published.
"""

import io
import pathlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags
from matplotlib.figure import Figure
from PIL import Image

from agegender.environment import set_environment
from agegender.schema import (
    AGE,
    AGE_CONFLICT,
    FILE_NAME,
    FOLD,
    GENDER,
    GENDER_CONFLICT,
    GENDERS,
    IMAGE,
    MAX_AGE,
    RACE,
    RACES,
)
from experiments import command

if TYPE_CHECKING:
    from agegender.data.filters import LabelFilter


Labels = dict[str, np.ndarray]  # a column [images] for each label, and "split"
_LABELS = (AGE, GENDER, RACE, FOLD, FILE_NAME, AGE_CONFLICT, GENDER_CONFLICT)
_TERMS = (
    f"an age such as 25 or a range such as 60-70; {', '.join(GENDERS)}; {', '.join(RACES)}; fold 0 to fold 4; "
    "conflict (images of one photograph with different labels) or no conflict"
)


def explore(
    out: pathlib.Path,
    *,
    data_dir: str | None = None,
    split: str = "all",
    where: Sequence[str] = (),
    faces: int = 40,
    seed: int = 0,
) -> str:
    """Draws the labels and some faces of the prepared data set into the folder `out`.

    Args:
        out: folder to write PNG files to.
        data_dir: where `tfds build` wrote; None is the folder of TFDS.
        split: "all", or splits and slices of them joined by "+".
        where: conditions such as "female, 60-70, Asian", each for a sheet of faces.
        faces: the most faces on a sheet.
        seed: of the random choice of faces.

    Returns:
        A table of the splits and of what was drawn.
    """
    conditions = {words: parse_where(words) for words in where}
    set_environment()
    from agegender.data.prepared import find_prepared

    builder = find_prepared(data_dir)
    parts = list(builder.info.splits) if split == "all" else [part.strip() for part in split.split("+")]
    labels = read_labels(builder, parts)
    out.mkdir(parents=True, exist_ok=True)
    draw_ages(labels).savefig(out / "ages.png", dpi=150)
    draw_splits(labels).savefig(out / "splits.png", dpi=150)
    lines = [f"{'':<12}{'images':>10}{'mean age':>10}{'female':>9}{'conflicts':>11}"]
    for name, rows in _split_rows(labels).items():
        conflicts = np.sum((labels[AGE_CONFLICT] | labels[GENDER_CONFLICT])[rows])
        ages, genders = labels[AGE][rows], labels[GENDER][rows]
        lines.append(f"{name:<12}{rows.sum():>10,}{ages.mean():>10.2f}{genders.mean():>9.1%}{conflicts:>11,}")
    for number, (words, (label_filter, in_conflict)) in enumerate(conditions.items(), 1):
        matching = label_filter.matches(labels)
        if in_conflict:
            matching &= labels[AGE_CONFLICT] | labels[GENDER_CONFLICT]
        chosen = choose_rows(matching, faces, seed)
        lines.append(f"{np.sum(matching):,} images where {words!r}, {len(chosen)} on faces_{number}.png")
        if chosen:
            sheet = draw_faces(read_images(builder, parts, chosen), labels, chosen)
            sheet.savefig(out / f"faces_{number}.png", dpi=100)
    return "\n".join([*lines, f"Drawn in {out}"])


def parse_where(words: str) -> tuple["LabelFilter", bool]:
    """Parses a condition such as "female, 60-70, Asian".

    Terms of one kind are alternatives, terms of different kinds apply together.

    Returns:
        The filter, and whether only images with conflicting labels match.
    """
    from agegender.data.filters import LabelFilter

    found: dict[str, Any] = {"genders": [], "races": [], "folds": []}
    known = {name.lower(): ("genders", name) for name in GENDERS} | {name.lower(): ("races", name) for name in RACES}
    in_conflict = False
    for term in (" ".join(term.lower().split()) for term in words.split(",")):
        if term in known:
            key, name = known[term]
            found[key].append(name)
        elif ages := re.fullmatch(r"(\d+)(?: ?[-\u2013] ?(\d+))?", term):
            if "ages" in found:
                raise ValueError(f"`--where` takes one age or range of ages. Received: where={words!r}")
            found["ages"] = (int(ages[1]), int(ages[2] or ages[1]))
        elif fold := re.fullmatch(r"fold (\d+)", term):
            found["folds"].append(int(fold[1]))
        elif term == "no conflict":
            found["conflicts"] = False
        elif term == "conflict":
            in_conflict = True
        else:
            raise ValueError(f"`--where` must consist of {_TERMS}. Received: {term!r} in where={words!r}")
    try:
        return LabelFilter(**{key: value for key, value in found.items() if value != []}), in_conflict
    except ValueError as error:
        raise ValueError(f"{error}, in where={words!r}") from error


def read_labels(builder: Any, parts: Sequence[str]) -> Labels:
    """Reads the labels of all images without decoding one."""
    from agegender.data.prepared import read_encoded, require_features

    require_features(builder, "explore", _LABELS, f"split={parts}")
    columns: dict[str, list[np.ndarray]] = {key: [] for key in (*_LABELS, "split")}
    for part in parts:
        try:
            batches = read_encoded(builder, part, _LABELS).batch(1024)
        except (KeyError, ValueError) as error:
            raise ValueError(f"`split` must name splits of {list(builder.info.splits)}. Received: {part!r}") from error
        for batch in batches.as_numpy_iterator():
            for key in _LABELS:
                columns[key].append(batch[key])
            columns["split"].append(np.full(len(batch[AGE]), part.split("[")[0]))
    if not columns[AGE]:
        raise ValueError(f"`split` must contain at least one image. Received: split={'+'.join(parts)!r}")
    return {key: np.concatenate(chunks) for key, chunks in columns.items()}


def choose_rows(matching: np.ndarray, count: int, seed: int) -> list[int]:
    """Chooses `count` of the matching rows at random, or all if there are fewer."""
    rows = np.flatnonzero(matching)
    return np.sort(np.random.default_rng(seed).permutation(rows)[:count]).tolist()


def read_images(builder: Any, parts: Sequence[str], rows: Sequence[int]) -> list[np.ndarray]:
    """Reads and decodes the images at these rows of the labels."""
    from agegender.data.prepared import read_encoded

    wanted = set(rows)
    examples = (example for part in parts for example in read_encoded(builder, part, [IMAGE]).as_numpy_iterator())
    encoded = (example[IMAGE] for row, example in enumerate(examples) if row in wanted)
    return [np.asarray(Image.open(io.BytesIO(each)).convert("RGB")) for each in encoded]


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


def draw_faces(images: Sequence[np.ndarray], labels: Labels, rows: Sequence[int]) -> Figure:
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


def _split_rows(labels: Labels) -> dict[str, np.ndarray]:
    return {str(name): labels["split"] == name for name in dict.fromkeys(labels["split"].tolist())}


def main(_: list[str]) -> None:
    options: Any = {name: flags.FLAGS[name].value for name in ("data_dir", "split", "where", "faces", "seed")}
    print(explore(pathlib.Path(flags.FLAGS.out), **options))


if __name__ == "__main__":
    flags.DEFINE_string("data_dir", None, "Where `tfds build` wrote; by default ~/tensorflow_datasets.")
    flags.DEFINE_string("out", None, "Folder for the PNG files.", required=True)
    flags.DEFINE_string("split", "all", "all, train, validation, test, or slices: 'train[:10%]+test'.")
    flags.DEFINE_multi_string("where", [], "Whose faces to draw: 'male, 25'. May be given several times.")
    flags.DEFINE_integer("faces", 40, "Faces a sheet, at most.", lower_bound=1, upper_bound=400)
    flags.DEFINE_integer("seed", 0, "Seed of the choice of faces.", lower_bound=0)
    command.run(main)
