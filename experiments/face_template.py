r"""Measures how UTKFace crops its faces: where the detector finds eyes, nose and mouth on its aligned images.

    python -m experiments.face_template --data_dir=... --images=2000

`agegender.inference.alignment.TEMPLATE` has the medians that it prints, in pixels of an image of 200 px.
"""

import itertools

import numpy as np
from absl import flags

from experiments import command

_LANDMARKS = ("left eye", "right eye", "nose", "mouth left", "mouth right")


def main(_: list[str]) -> None:
    import agegender as ag
    from agegender.inference.alignment import CROP, TEMPLATE, similarity, yaw_ratio
    from agegender.inference.detection import FaceDetector

    values = flags.FLAGS
    dataset = ag.load_utkface(values.split, batch_size=1, image_size=CROP, data_dir=values.data_dir)
    images = [np.asarray(batch[0]) for batch, _ in itertools.islice(dataset, values.images)]

    # Landmarks of the widest face of each image, and where `align_face` moves them.
    faces = [max(found, key=lambda face: face.box[2] - face.box[0]) for found in map(FaceDetector(), images) if found]
    landmarks = np.array([face.landmarks for face in faces])
    matrices = np.array([similarity(points) for points in landmarks])
    aligned = landmarks @ matrices[:, :, :2].swapaxes(1, 2) + matrices[:, None, :, 2]
    distances = [np.median(np.linalg.norm(points - TEMPLATE, axis=-1), axis=0) for points in (landmarks, aligned)]

    print(f"{len(faces)} of {len(images)} images have a face. Medians in pixels:\n")
    print("| landmark | x | y | from the template in UTKFace | after `align_face` |\n|---|---|---|---|---|")
    for row in zip(_LANDMARKS, *np.median(landmarks, axis=0).T, *distances, strict=True):
        print("| {} | {:.1f} | {:.1f} | {:.1f} | {:.1f} |".format(*row))
    yaws = np.percentile([abs(yaw_ratio(points)) for points in landmarks], [50, 95, 99])
    scales = np.percentile(np.hypot(matrices[:, 0, 0], matrices[:, 1, 0]), [5, 50, 95])
    print("\n|yaw ratio|: below {:.2f}, {:.2f}, {:.2f} for 50, 95, 99 % of the faces".format(*yaws))
    print("Scale of `align_face`: {:.3f}, {:.3f}, {:.3f} at 5, 50, 95 %".format(*scales))


if __name__ == "__main__":
    flags.DEFINE_string("data_dir", None, "Where `tfds build` wrote; by default ~/tensorflow_datasets.")
    flags.DEFINE_string("split", "train", "The split to measure; the others stay unseen.")
    flags.DEFINE_integer("images", 2000, "Number of images.", lower_bound=1)
    command.run(main)
