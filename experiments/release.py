r"""Makes a model to hand on from a trained run: folded, in half precision, calibrated, measured, with its card.

    python -m experiments.release --workdir=runs/1 --out=models/utkface64 --data_dir=...

Writes into OUT best.keras, calibration.json, recipe.json (config and versions) and README.md, the model card; the full
report on the test split, which shows faces, goes to WORKDIR/released. That report is of intervals fitted on the
validation split; those handed on are then fitted on both: with twice the images they keep their promise better.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from absl import app, flags

from agegender.environment import set_environment
from agegender.schema import BEST_MODEL, SPLITS
from experiments.command import in_words
from experiments.config import AugmentationConfig, Config
from experiments.half_precision import store_in_half_precision
from experiments.runs import build, calibrate_run, evaluate_run

if TYPE_CHECKING:
    from agegender import Report

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
_OUT = flags.DEFINE_string("out", None, "Folder of the model to hand on.", required=True)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where `tfds build` wrote; by default ~/tensorflow_datasets.")

_AGE_HEAD = flags.DEFINE_string("age_head", "", "Another one with the same weights: median for distribution.")
_SPLIT = flags.DEFINE_string("split", "test", "What the card's numbers are of; 'validation' while choosing.")

_SHOWN: Final = ("All images", "Gaps between groups", "By age", "By gender", "By race")
_REFITTED: Final = "Those in calibration.json were then fitted on both, so these numbers say nothing of them. "
_SHOWN_LAST: Final = ("Coverage of the age intervals", "Calibration of the gender", "Definitions")


def release(
    workdir: pathlib.Path, out: pathlib.Path, data_dir: str | None = None, *, age_head: str = "", split: str = "test"
) -> "Report":
    """Folds, stores, calibrates and measures the best model of a run, and writes its card.

    Args:
        workdir: of the run.
        out: folder of the model to hand on.
        data_dir: where `tfds build` wrote.
        age_head: another one with the same weights, "median" for "distribution"; empty for that of the run.
        split: what the card's numbers are of; "validation" while choosing.
    """
    set_environment()
    import keras

    from agegender.models.batch_norm import fold_batch_norm
    from agegender.models.saving import load_model

    run = json.loads((workdir / "run.json").read_text())
    config = Config(**{**run["config"], "augmentation": AugmentationConfig(**run["config"]["augmentation"])})
    keras.config.set_dtype_policy("float32")  # every machine has it; only on the disk a half of it is enough
    trained_as = dataclasses.replace(config, weights="none", start="", age_head=age_head or config.age_head)
    trained = build(trained_as)
    trained.set_weights(load_model(workdir).get_weights())
    out.mkdir(parents=True, exist_ok=True)
    store_in_half_precision(fold_batch_norm(trained), out / BEST_MODEL)
    calibrate_run(out, data_dir, flip=config.flip)
    report = evaluate_run(out, split, data_dir=data_dir, out=workdir / "released")
    if split == "test":
        calibrate_run(out, data_dir, flip=config.flip, split="validation+test")
    recipe = {key: run[key] for key in ("config", "versions", "backend", "dtype_policy")}
    recipe["released_with"] = {"age_head": trained_as.age_head}
    (out / "recipe.json").write_text(json.dumps(recipe, indent=2) + "\n")
    commands = _commands(out.name, run["command"], run["backend"], age_head)
    (out / "README.md").write_text(_card(out.name, config, commands, report, data_dir, split), encoding="utf-8")
    return report


def _commands(name: str, trained: list[str], backend: str, age_head: str) -> str:
    chosen = " ".join(word for word in trained if word.startswith("--config"))
    option = f" --age_head={age_head}" if age_head else ""
    environment = "" if backend == "tensorflow" else f"KERAS_BACKEND={backend} "
    return (
        f"{environment}python -m experiments.train {chosen} --workdir=runs/{name}\n"
        f"python -m experiments.release --workdir=runs/{name} --out=models/{name}{option}"
    )


def _card(name: str, config: Config, commands: str, report: "Report", data_dir: str | None, split: str) -> str:
    from agegender.data.prepared import find_prepared
    from agegender.evaluation.report_page import NOT_FOR, build_sections

    info = find_prepared(data_dir).info
    counts = ", ".join(f"{split} {info.splits[split].num_examples:,}" for split in SPLITS)
    from_report: Mapping[str, Any] = build_sections(report, {})
    sections = {
        "What it is": [
            f"It guesses age and recorded gender from an aligned face of {config.image_size} x {config.image_size} "
            f"pixels, cut as UTKFace cuts them: {_trunk(config)} with heads for {config.heads.replace(',', ' and ')}, "
            f"trained from {'random' if config.weights == 'none' else config.weights} weights and stored in half "
            "precision. "
            "`agegender.Predictor` loads it from this folder.",
        ],
        "What it is not for": [
            NOT_FOR,
            "UTKFace is for non-commercial research only, and so is this model.",
        ],
        "Data": [
            f"UTKFace's aligned and cropped images at {config.image_size} px, in the project's data set version "
            f"{info.version}: {counts}. Near-identical photographs share a split. "
            "The weights have seen the train split only, and the best epoch was chosen on the validation split. The "
            f"numbers below are of the {split} split, with intervals and a temperature fitted on the validation split. "
            f"{_REFITTED if split == 'test' else ''}The labels are partly a program's: datasets/utkface/README.md says "
            "what is wrong with them.",
        ],
        "Recipe": [
            "recipe.json holds every number and the versions. In the project, with the data set prepared:",
            f"```sh\n{commands}\n```",
        ],
        **{title: from_report[title] for title in (*_SHOWN, *_SHOWN_LAST) if title in from_report},
    }
    lines = [f"# {name}"]
    for title, blocks in sections.items():
        lines += [f"## {title}", *(block if isinstance(block, str) else _tabulate(*block) for block in blocks)]
    return "\n\n".join(lines) + "\n"


def _tabulate(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *lines))


def _trunk(config: Config) -> str:
    width = "" if config.width == 1 else f", its convolutions {config.width:.3g} times as wide,"
    return f"the {config.architecture.upper()} of keras-vggface{width}"


@in_words()
def main(_: list[str]) -> None:
    release(
        pathlib.Path(_WORKDIR.value),
        pathlib.Path(_OUT.value),
        _DATA_DIR.value,
        age_head=_AGE_HEAD.value,
        split=_SPLIT.value,
    )


if __name__ == "__main__":
    app.run(main)
