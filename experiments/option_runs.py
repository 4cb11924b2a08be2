"""Short runs that differ in one field of the config, and the table that they give together."""

import contextlib
import os
import pathlib
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from agegender.evaluation.metrics import resample
from experiments.config import Config

if TYPE_CHECKING:
    from agegender.evaluation.groups import Table

PLAIN: Final = "plain"


def changes(base: Config) -> dict[str, dict[str, Any]]:
    """The fields of a config that each option changes.

    With fewer images, runs are as many steps long, with smaller ones first, about as many minutes.

    >>> changes(Config(epochs=4))["half of the images"]
    {'limit': 50, 'epochs': 8}
    """
    epochs, size = base.epochs, base.image_size
    return {
        PLAIN: {},
        "age only": {"heads": "age"},
        "gender only": {"heads": "gender"},
        "no batch norm": {"batch_norm": False, "learning_rate": 3e-4},
        "distribution": {"age_head": "distribution"},
        "learned weights": {"learned_weights": True},
        "age density 0.5": {"age_density": 0.5},
        "no conflicts": {"conflicts": False},
        "ema": {"ema": 0.99},
        "mixup": {"mixup": 0.2},
        "smaller first": {"sizes": f"{epochs}x{size * 3 // 4}", "epochs": epochs + epochs // 2},
        "half of the width": {"width": base.width / 2},
        **{f"{side} px": {"image_size": side} for side in (48, 64) if side != size},
        "half of the images": {"limit": 50, "epochs": epochs * 2},
        "a quarter": {"limit": 25, "epochs": epochs * 4},
        "an eighth": {"limit": 12, "epochs": epochs * 8},
    }


def base_of(config: str) -> Config:
    """What a file of experiments/configs says."""
    return runpy.run_path(config)["get_config"]()


def run(
    option: str, seed: str, folder: pathlib.Path, config: str, data_dir: str | None, *, quiet: bool = False
) -> None:
    """Trains one run and measures it on the validation split, in a process of its own.

    Args:
        option: of `changes`.
        seed: of the run.
        folder: of the run; what was there is deleted.
        config: path of the config that it changes.
        data_dir: where `tfds build` wrote.
        quiet: whether what it says goes to FOLDER.log, where several run at once.

    Raises:
        subprocess.CalledProcessError: if it fails.
    """
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "experiments.train", f"--config={config}", f"--workdir={folder}"]
    command += ["--split=validation", f"--config.seed={seed}"]
    command += [f"--config.{field}={value}" for field, value in changes(base_of(config))[option].items()]
    command += [f"--data_dir={data_dir}"] if data_dir else []
    shared = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", **os.environ}  # JAX would take most of a GPU for each process
    with folder.with_name(f"{folder.name}.log").open("w") if quiet else contextlib.nullcontext() as log:
        subprocess.run(command, check=True, env=shared, stdout=log, stderr=log)


def table(runs: Mapping[str, Mapping[str, "Table"]]) -> str:
    """The options beside the plain runs, averaged over the seeds that both have; differences with 95 % intervals
    over photograph groups.

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
    weights = resample(plain[0]["group"][np.argsort(plain[0]["file_name"])])
    low, high = np.percentile(weights @ difference / weights.sum(axis=1), [2.5, 97.5])
    return [each, f"{difference.mean():+.2f} ({low:+.2f} to {high:+.2f})"]


def _score(one: "Table", head: str) -> np.ndarray:
    """Of each image the error in years, or whether the gender is right."""
    order = np.argsort(one["file_name"])
    if head == "age":
        return np.abs(one["predicted_age"] - one["age"])[order]
    return ((one["p_female"] >= 0.5) == (one["gender"] >= 0.5)).astype("float64")[order]


def done(out: pathlib.Path, options: Iterable[str], seeds: Iterable[str]) -> dict[str, dict[str, "Table"]]:
    from agegender.evaluation.report_files import read_predictions

    files = {o: {s: predictions_of(folder_of(out, o, s)) for s in seeds} for o in options}
    found: dict[str, dict[str, Table]] = {
        o: {s: read_predictions(f) for s, f in of.items() if f.is_file()} for o, of in files.items()
    }
    return {option: of for option, of in found.items() if of}


def folder_of(out: pathlib.Path, option: str, seed: str) -> pathlib.Path:
    return out / f"{option.replace(' ', '_')}-{seed}"


def predictions_of(folder: pathlib.Path) -> pathlib.Path:
    """The last file that a run writes which counts here: with it, the run is done."""
    return folder / "evaluation-validation" / "predictions.csv"
