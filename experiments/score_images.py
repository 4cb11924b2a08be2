r"""Finds the faces of very many photographs and predicts age and gender of each: one Beam pipeline, on any runner.

    python -m experiments.score_images --images=photographs/ --out=runs/scored --model=runs/1 \
        -- --direct_num_workers=4 --direct_running_mode=multi_processing

Takes all images below a folder or gs://bucket/folder, or those of a glob such as 'photographs/**.jpg'. What follows
`--` are Beam's options for the runner; --default_sdk_harness_log_level=INFO shows the log of its workers. Needs the
extra `[beam]`. Prints the counts. Exit codes: 0 done, also if some images could not be read; 1 if the pipeline failed
or photographs are missing from the counts; 2 if nothing was done.
"""

import json

from absl import flags

from experiments import command


def main(arguments: list[str]) -> None:
    from agegender.inference.beam import score_images

    values = flags.FLAGS
    counts = score_images(
        values.images,
        values.out,
        model=values.model,
        batch_size=values.batch_size,
        aligned=values.aligned,
        flip=values.flip,
        options=["--default_sdk_harness_log_level=WARNING", *arguments[1:]],
    )
    print(json.dumps(counts))


if __name__ == "__main__":
    flags.DEFINE_string("images", None, "Folder, file, or glob in quotes, in any file system of Beam.", required=True)
    flags.DEFINE_string("out", None, "Folder to write to; must not contain a finished run.", required=True)
    flags.DEFINE_string("model", None, "Model file or folder of a run; by default the released model.")
    flags.DEFINE_integer("batch_size", 64, "Photographs held at a time, and faces a step.", lower_bound=1)
    flags.DEFINE_bool("aligned", False, "Each image is one face, cropped as in UTKFace.")
    flags.DEFINE_bool("flip", None, "Average the predictions for a face and its mirror image.")
    command.run(main, {RuntimeError: 1, Exception: 2}, takes_arguments=True, uses_keras=False)
