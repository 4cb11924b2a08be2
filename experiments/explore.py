r"""A look at the prepared data: what is in it, how balanced its splits are, what is wrong with it, and some faces.

    python -m experiments.explore --out=runs/look
    python -m experiments.explore --out=runs/look --where="male, 25" --where="female, 60-70, Asian" --where=conflict

Writes OUT/index.html, one page that needs nothing else, the same plots and sheets of faces as PNG files, and
numbers.json. A condition of --where is made of an age or a range of ages, male, female, races, "fold 3", "conflict",
"age conflict", "gender conflict" or "no conflict", with commas between; each --where gives a sheet of faces.

The page shows faces: those of UTKFace may not be published.
"""

import json
import pathlib
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import app, flags

from agegender.environment import set_environment
from experiments.command import in_words

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

    from experiments.exploring.faces import Sheet
    from experiments.exploring.table import Table

_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where `tfds build` wrote; by default ~/tensorflow_datasets.")
_OUT = flags.DEFINE_string("out", None, "Folder for the page, the plots and the numbers.", required=True)
_SPLIT = flags.DEFINE_string("split", "all", "all, train, validation, test, or slices: 'train[:10%]+test'.")
_WHERE = flags.DEFINE_multi_string("where", [], "Whose faces to show: 'male, 25'. May be given several times.")
_FACES = flags.DEFINE_integer("faces", 40, "Faces a sheet, at most.", lower_bound=1, upper_bound=400)
_SEED = flags.DEFINE_integer("seed", 0, "Of the choice of faces.", lower_bound=0)


def explore(
    out: pathlib.Path,
    *,
    data_dir: str | None = None,
    split: str = "all",
    where: Sequence[str] = (),
    faces: int = 40,
    seed: int = 0,
) -> str:
    """Reads the prepared data twice, once for the labels and once for the faces shown, and writes the page.

    Args:
        out: folder to write to; files of an earlier look are written over.
        data_dir: where `tfds build` wrote; by default TFDS's own folder.
        split: "all", or splits and slices of them joined by "+".
        where: conditions in words, each for a sheet of faces.
        faces: at most, on each sheet.
        seed: of the choice of faces.

    Returns:
        The path of the page and a short table of the numbers.

    Raises:
        ValueError: for a condition or a split that is not understood.
        OSError: if the data is not prepared, or the folder cannot be written.
    """
    from experiments.exploring.where import parse_where

    wheres = [parse_where(words) for words in dict.fromkeys(where)]
    out.mkdir(parents=True, exist_ok=True)  # what can be wrong is said before TensorFlow takes its seconds
    set_environment()
    from agegender.data.prepared import find_prepared
    from experiments.exploring.faces import choose_sheets
    from experiments.exploring.numbers import count, find_groups, summary
    from experiments.exploring.plots import draw_plots
    from experiments.exploring.story import tell
    from experiments.exploring.table import read_table

    say = _Clock()
    builder = find_prepared(data_dir)
    table = read_table(builder, split)
    groups = find_groups(table)
    say(f"{len(table):,} images, their labels read from {builder.data_dir}")
    numbers = count(table, groups, builder.info.metadata)
    numbers["where"] = {each.words: int(each.matches(table.columns).sum()) for each in wheres}
    (out / "numbers.json").write_text(json.dumps(numbers, indent=2) + "\n")
    for words, found in numbers["where"].items():
        say(f"{found:,} images where {words!r}" if found else f"no image satisfies {words!r}")
    plots = draw_plots(table, groups, numbers, out)
    say(f"{len(plots)} plots drawn")
    sheets = choose_sheets(table, groups, wheres, faces, seed)
    images = _draw(builder, table, sheets, out)
    say(f"{len(images)} faces drawn on {sum(bool(sheet.rows) for sheet in sheets)} sheets")
    files = {name: ((out / name).read_bytes(), words) for name, words in plots.items()}
    (out / "index.html").write_text(tell(split, table, numbers, files, sheets, images), encoding="utf-8")
    say("page written. It shows faces: those of UTKFace may not be published")
    return f"\n{summary(numbers)}\n\nPage: {out / 'index.html'}"


def _draw(
    builder: "tfds.core.DatasetBuilder", table: "Table", sheets: Sequence["Sheet"], out: pathlib.Path
) -> dict[int, bytes]:
    """Writes each sheet that has a face, removes those of an earlier look, and returns the encoded images."""
    from experiments.exploring.faces import draw_sheet
    from experiments.exploring.table import read_images

    for earlier in (*out.glob("where_*.png"), *(out / sheet.file for sheet in sheets)):
        earlier.unlink(missing_ok=True)
    images = read_images(builder, table, {image for sheet in sheets for image in sheet.images})
    for sheet in sheets:
        if sheet.rows:
            draw_sheet(table, images, sheet).save(out / sheet.file)
    return images


class _Clock:
    """Says what is done, after how many seconds."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def __call__(self, words: str) -> None:
        print(f"{time.monotonic() - self._start:5.1f} s  {words}", flush=True)


@in_words()
def main(_: list[str]) -> None:
    told = explore(
        pathlib.Path(_OUT.value),
        data_dir=_DATA_DIR.value,
        split=_SPLIT.value,
        where=_WHERE.value,
        faces=_FACES.value,
        seed=_SEED.value,
    )
    print(told)


if __name__ == "__main__":
    app.run(main)
