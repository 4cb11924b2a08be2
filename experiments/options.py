r"""What each option is worth: short runs that differ in one field, on equal terms, two seeds each.

    python -m experiments.options --data_dir=... --out=runs/options
    python -m experiments.options --data_dir=... --out=runs/options --only=plain,distribution --seeds=1
    KERAS_BACKEND=jax python -m experiments.options --data_dir=... --config=experiments/configs/options_64.py --jobs=8

Runs those that are not done yet and prints the table of all that are. Measured on the validation split: the test split
is for what was chosen. A run that was stopped half way is begun anew. The last command is for a GPU, which eight
trainings fill better than one; each then writes what it says to a file beside its folder.
"""

import pathlib
import sys
from concurrent import futures

from absl import app, flags

from experiments.option_runs import PLAIN, base_of, changes, done, folder_of, predictions_of, run, table

_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where `tfds build` wrote; by default ~/tensorflow_datasets.")
_OUT = flags.DEFINE_string("out", "runs/options", "Folder for the runs, one below it for each option and seed.")
_CONFIG = flags.DEFINE_string("config", "experiments/configs/short_48.py", "What all of them have in common.")
_ONLY = flags.DEFINE_list("only", None, "The options to run; by default all.")
_SEEDS = flags.DEFINE_list("seeds", ["1", "2"], "The seeds of each.")
_JOBS = flags.DEFINE_integer("jobs", 1, "How many run at once.", lower_bound=1)


def main(_: list[str]) -> None:
    out, seeds = pathlib.Path(_OUT.value), _SEEDS.value
    options = tuple(changes(base_of(_CONFIG.value)))
    wanted = options if _ONLY.value is None else _ONLY.value
    unknown = sorted(set(wanted) - set(options))
    if unknown:
        sys.exit(f"--only must be of {', '.join(options)}. Received: {', '.join(unknown)}")
    out.mkdir(parents=True, exist_ok=True)

    def begin(option: str, seed: str) -> None:
        folder = folder_of(out, option, seed)
        if not predictions_of(folder).is_file():
            print(f"\n== {option}, seed {seed}", flush=True)
            run(option, seed, folder, _CONFIG.value, _DATA_DIR.value, quiet=_JOBS.value > 1)

    with futures.ThreadPoolExecutor(_JOBS.value) as pool:
        begun = [pool.submit(begin, option, seed) for seed in seeds for option in wanted]
        try:
            futures.wait(begun)
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise
    failed = [str(one.exception()) for one in begun if one.exception()]
    runs = done(out, options, seeds)
    print(f"\n{table(runs)}" if PLAIN in runs else "\nThere is no plain run to compare with yet.")
    if failed:
        sys.exit("\n".join(failed))


if __name__ == "__main__":
    app.run(main)
