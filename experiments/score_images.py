r"""Finds the faces of very many photographs, and guesses age and gender of each: one Beam pipeline, on any runner.

    python -m experiments.score_images --images=photographs/ --out=runs/scored --model=runs/1 \
        -- --direct_num_workers=4 --direct_running_mode=multi_processing

Of a folder, or of gs://bucket/folder, all images below it are taken; a glob such as 'photographs/**.jpg' says
otherwise. What comes after `--` are Beam's options, for the runner; its workers tell more with
--default_sdk_harness_log_level=INFO. Needs the extra `[beam]`. Ends with the counts. The exit code is 0, also if some
images could not be read; 1 if the pipeline failed or photographs are missing from the counts; 2 if nothing was done.
"""

import json
import sys
from typing import NoReturn

from absl import app, flags, logging

_IMAGES = flags.DEFINE_string(
    "images", None, "A folder, a file, or a glob in quotes, in any file system of Beam's.", required=True
)
_OUT = flags.DEFINE_string("out", None, "Folder to write to; must not hold a finished run.", required=True)
_MODEL = flags.DEFINE_string("model", None, "A .keras file or the folder of a run; by default the released model.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Photographs held at a time, and faces a step.", lower_bound=1)
_ALIGNED = flags.DEFINE_bool("aligned", False, "Images show one face each, cut as UTKFace cuts them.")
_FLIP = flags.DEFINE_bool("flip", None, "Answer with the mean over a face and its mirror image.")


_FAILED, _WRONG = 1, 2  # as for the command `agegender`


def main(arguments: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)  # Beam tells each step of its own, and so do its workers
    try:
        from agegender.inference.beam import score_images

        counts = score_images(
            _IMAGES.value,
            _OUT.value,
            model=_MODEL.value,
            batch_size=_BATCH_SIZE.value,
            aligned=_ALIGNED.value,
            flip=_FLIP.value,
            options=["--default_sdk_harness_log_level=WARNING", *arguments[1:]],
        )
    except (OSError, ValueError, ImportError) as error:
        _end(_WRONG, error)
    except RuntimeError as error:
        _end(_FAILED, error)
    print(json.dumps(counts))


def _end(code: int, error: Exception) -> NoReturn:
    print(f"score_images: {error}", file=sys.stderr)
    sys.exit(code)


def _parse(arguments: list[str]) -> list[str]:
    try:
        return flags.FLAGS(arguments)
    except flags.Error as error:
        _end(_WRONG, error)


if __name__ == "__main__":
    app.run(main, flags_parser=_parse)
