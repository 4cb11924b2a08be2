r"""Writes the table of file name to split, fold and photograph group, or checks it against the prepared data set.

UTKFace is published in several forms with images of different sizes, and two images may match in one form only. The
table joins the groups of all given forms, and the builder keeps the images of a group together:

  python -m experiments.split_table --data_dir=FORM_1 --data_dir=FORM_2
  python -m experiments.split_table --data_dir=FORM_1 --check
"""

import csv
import pathlib
import sys
from collections.abc import Iterator, Sequence

import numpy as np
from absl import flags

from agegender.schema import FILE_NAME, GROUP
from experiments import command

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "datasets"))  # `datasets` is another package
from utkface import labels, splits


def read_groups(data_dir: str) -> Iterator[tuple[str, str]]:
    """Yields the file name and the photograph group of every image that was built."""
    from agegender.data.prepared import find_prepared, read_encoded, require_features

    builder = find_prepared(data_dir)
    require_features(builder, "split_table", (FILE_NAME, GROUP), f"data_dir={data_dir!r}")
    for split in builder.info.splits:
        for example in read_encoded(builder, split, (FILE_NAME, GROUP)).as_numpy_iterator():
            yield example[FILE_NAME].decode(), example[GROUP].decode()


def build_table(data_dirs: Sequence[str]) -> list[dict[str, str]]:
    """Builds the rows of the table, sorted by file name."""
    forms = [dict(read_groups(data_dir)) for data_dir in data_dirs]
    names = sorted(set().union(*forms))
    row = {name: index for index, name in enumerate(names)}
    first_of_group: dict[tuple[int, str], int] = {}
    pairs = [
        (first_of_group.setdefault((form, group), row[name]), row[name])
        for form, group_of in enumerate(forms)
        for name, group in sorted(group_of.items())
    ]
    groups = splits.assign_groups([labels.parse_name(name).stem for name in names], np.array(pairs), {})
    return [
        {"file_name": name, "split": splits.split_of(group), "fold": str(splits.fold_of(group)), "group": group}
        for name, group in zip(names, groups, strict=True)
    ]


def write_table(path: pathlib.Path, table: Sequence[dict[str, str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)


def find_differences(table: Sequence[dict[str, str]], data_dirs: Sequence[str]) -> list[str]:
    """Describes each image that was built into another group than the table says, or that the table lacks."""
    expected = {row["file_name"]: row["group"] for row in table}
    return [
        f"{name}: built into {group}, the table says {expected.get(name, 'nothing')}"
        for data_dir in data_dirs
        for name, group in read_groups(data_dir)
        if expected.get(name) != group
    ]


def main(_: list[str]) -> None:
    if not flags.FLAGS.check:
        table = build_table(flags.FLAGS.data_dir)
        write_table(pathlib.Path(flags.FLAGS.table), table)
        print(f"{len(table):,} images in {len({row['group'] for row in table}):,} groups: {flags.FLAGS.table}")
        return
    with open(flags.FLAGS.table, newline="") as file:
        wrong = find_differences(list(csv.DictReader(file)), flags.FLAGS.data_dir)
    print("\n".join(wrong[:20]) or "The table agrees with the prepared data set.")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    flags.DEFINE_multi_string("data_dir", None, "Where `tfds build` wrote; once for each form.", required=True)
    flags.DEFINE_string("table", str(splits.TABLE), "The CSV file of the table.")
    flags.DEFINE_bool("check", False, "Compare with the table instead of writing it.")
    command.run(main)
