r"""Finds the faces of very many photographs, and guesses age and gender of each: one Beam pipeline, on any runner.

    python -m experiments.score_pictures --pictures='photographs/**.jpg' --out=runs/scored --model=runs/1 \
        -- --direct_num_workers=4 --direct_running_mode=multi_processing

What comes after `--` are Beam's options, for the runner. Needs the extra `[beam]`. Ends with the counts, and with 1 if
photographs are missing from them.
"""

import json
import sys

from absl import app, flags, logging

_PICTURES = flags.DEFINE_string("pictures", None, "A file or a glob, in any file system of Beam's.", required=True)
_OUT = flags.DEFINE_string("out", None, "Folder to write to; must not hold a finished run.", required=True)
_MODEL = flags.DEFINE_string("model", None, "A .keras file or the folder of a run; by default the released model.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Photographs held at a time, and faces a step.", lower_bound=1)
_ALIGNED = flags.DEFINE_bool("aligned", False, "Pictures show one face each, cut as UTKFace cuts them.")
_FLIP = flags.DEFINE_bool("flip", None, "Answer with the mean over a face and its mirror image.")


def main(arguments: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)  # Beam tells each step of its own
    from agegender.beam import score_pictures

    try:
        counts = score_pictures(
            _PICTURES.value,
            _OUT.value,
            model=_MODEL.value,
            batch_size=_BATCH_SIZE.value,
            aligned=_ALIGNED.value,
            flip=_FLIP.value,
            options=arguments[1:],
        )
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print(json.dumps(counts))


if __name__ == "__main__":
    app.run(main)
