r"""What each option is worth: short runs that differ in one field, on equal terms, two seeds each.

    python -m experiments.options --data_dir=... --out=runs/options
    python -m experiments.options --data_dir=... --out=runs/options --only=plain,distribution --seeds=1

Runs those that are not done yet, one after the other, and prints the table of all that are. Measured on the validation
split: the test split is for what was chosen. A run that was stopped half way is begun anew.
"""

import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

import numpy as np
from absl import app, flags

if TYPE_CHECKING:
    from agegender.groups import Table

PLAIN: Final = "plain"
OPTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    PLAIN: (),
    "age only": ("heads=age",),
    "gender only": ("heads=gender",),
    "no batch norm": ("batch_norm=False", "learning_rate=3e-4"),
    "distribution": ("age_head=distribution",),
    "learned weights": ("learned_weights=True",),
    "age density 0.5": ("age_density=0.5",),
    "no conflicts": ("conflicts=False",),
    "ema": ("ema=0.99",),
    "mixup": ("mixup=0.2",),
    "48 px throughout": ("sizes=", "epochs=2"),  # in about the same time
    "half of the pictures": ("limit=50", "epochs=6", "sizes=4x32"),  # as many steps
    "a quarter": ("limit=25", "epochs=12", "sizes=8x32"),
}

_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where `tfds build` wrote; by default ~/tensorflow_datasets.")
_OUT = flags.DEFINE_string("out", "runs/options", "Folder for the runs, one below it for each option and seed.")
_CONFIG = flags.DEFINE_string("config", "experiments/configs/short_48.py", "What all of them have in common.")
_ONLY = flags.DEFINE_list("only", list(OPTIONS), "The options to run.")
_SEEDS = flags.DEFINE_list("seeds", ["1", "2"], "The seeds of each.")


def run(option: str, seed: str, folder: pathlib.Path, config: str, data_dir: str | None) -> None:
    """Trains one run and measures it on the validation split, in a process of its own."""
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "experiments.train", f"--config={config}", f"--workdir={folder}"]
    command += ["--split=validation", f"--config.seed={seed}", *(f"--config.{field}" for field in OPTIONS[option])]
    subprocess.run([*command, *([f"--data_dir={data_dir}"] if data_dir else [])], check=True)


def table(runs: Mapping[str, Mapping[str, "Table"]]) -> str:
    """The options beside the plain runs, averaged over the seeds that both have, differences with 95 % intervals.

    Args:
        runs: for each option and seed its table of predictions.
    """
    lines = [
        "| option | seeds | age MAE, years | less plain | gender accuracy | less plain |",
        "|---|---|---|---|---|---|",
    ]
    for option, of_option in runs.items():
        seeds = sorted(set(of_option) & set(runs[PLAIN]))
        cells = [option, ", ".join(seeds)]
        for head, form, scale in (("age", "{:.2f}", 1), ("gender", "{:.1f} %", 100)):
            cells += _cells([of_option[s] for s in seeds], [runs[PLAIN][s] for s in seeds], head, form, scale)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cells(ours: list["Table"], plain: list["Table"], head: str, form: str, scale: float) -> list[str]:
    if not ours or {"age": "predicted_age", "gender": "p_female"}[head] not in ours[0]:
        return ["", ""]
    scores, base = ([scale * _score(one, head) for one in tables] for tables in (ours, plain))
    each = " / ".join(form.format(score.mean()) for score in scores)
    difference = np.mean(scores, axis=0) - np.mean(base, axis=0)
    drawn = np.random.default_rng(0).choice(difference, (1000, len(difference))).mean(axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return [each, f"{difference.mean():+.2f} ({low:+.2f} to {high:+.2f})"]


def _score(one: "Table", head: str) -> np.ndarray:
    """Of each picture the error in years, or whether the gender is right."""
    order = np.argsort(one["file_name"])
    if head == "age":
        return np.abs(one["predicted_age"] - one["age"])[order]
    return ((one["p_female"] >= 0.5) == (one["gender"] >= 0.5)).astype("float64")[order]


def _done(out: pathlib.Path, options: Iterable[str], seeds: Iterable[str]) -> dict[str, dict[str, "Table"]]:
    from agegender.report import read_predictions

    files = {o: {s: _folder(out, o, s) / "evaluation-validation" / "predictions.csv" for s in seeds} for o in options}
    found: dict[str, dict[str, Table]] = {
        o: {s: read_predictions(f) for s, f in of.items() if f.is_file()} for o, of in files.items()
    }
    return {option: of for option, of in found.items() if of}


def _folder(out: pathlib.Path, option: str, seed: str) -> pathlib.Path:
    return out / f"{option.replace(' ', '_')}-{seed}"


def main(_: list[str]) -> None:
    out, seeds = pathlib.Path(_OUT.value), _SEEDS.value
    unknown = sorted(set(_ONLY.value) - set(OPTIONS))
    if unknown:
        sys.exit(f"--only must be of {', '.join(OPTIONS)}. Received: {', '.join(unknown)}")
    for seed in seeds:
        for option in _ONLY.value:
            folder = _folder(out, option, seed)
            if not (folder / "evaluation-validation" / "predictions.csv").is_file():
                print(f"\n== {option}, seed {seed}", flush=True)
                run(option, seed, folder, _CONFIG.value, _DATA_DIR.value)
    runs = _done(out, OPTIONS, seeds)
    print(f"\n{table(runs)}" if PLAIN in runs else "\nThere is no plain run to compare with yet.")


if __name__ == "__main__":
    app.run(main)
