r"""What each option is worth: short runs that differ in one field, on equal terms, two seeds each.

    python -m experiments.options --data_dir=... --out=runs/options
    python -m experiments.options --data_dir=... --out=runs/options --only=plain,distribution --seeds=1

Runs those that are not done yet, one after the other, and prints the table of all that are. Measured on the validation
split: the test split is for what was chosen. A run that was stopped half way is begun anew.
"""

import pathlib
import sys

from absl import app, flags

from experiments.option_runs import OPTIONS, PLAIN, done, folder_of, predictions_of, run, table

_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where `tfds build` wrote; by default ~/tensorflow_datasets.")
_OUT = flags.DEFINE_string("out", "runs/options", "Folder for the runs, one below it for each option and seed.")
_CONFIG = flags.DEFINE_string("config", "experiments/configs/short_48.py", "What all of them have in common.")
_ONLY = flags.DEFINE_list("only", list(OPTIONS), "The options to run.")
_SEEDS = flags.DEFINE_list("seeds", ["1", "2"], "The seeds of each.")


def main(_: list[str]) -> None:
    out, seeds = pathlib.Path(_OUT.value), _SEEDS.value
    unknown = sorted(set(_ONLY.value) - set(OPTIONS))
    if unknown:
        sys.exit(f"--only must be of {', '.join(OPTIONS)}. Received: {', '.join(unknown)}")
    for seed in seeds:
        for option in _ONLY.value:
            folder = folder_of(out, option, seed)
            if not predictions_of(folder).is_file():
                print(f"\n== {option}, seed {seed}", flush=True)
                run(option, seed, folder, _CONFIG.value, _DATA_DIR.value)
    runs = done(out, OPTIONS, seeds)
    print(f"\n{table(runs)}" if PLAIN in runs else "\nThere is no plain run to compare with yet.")


if __name__ == "__main__":
    app.run(main)
