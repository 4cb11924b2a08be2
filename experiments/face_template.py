r"""Measures how UTKFace cuts its faces: where mtcnn finds eyes, nose and mouth on its own aligned images.

    python -m experiments.face_template --data_dir=... --images=2000

`agegender.inference.alignment.TEMPLATE` holds the medians that it prints, and TURNED in
`agegender.inference.predictor` the 99th percentile of how far faces are turned. For images of 200 px.
"""

import itertools

import numpy as np
from absl import app, flags

from agegender.environment import set_environment

_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where `tfds build` wrote; by default ~/tensorflow_datasets.")
_SPLIT = flags.DEFINE_string("split", "train", "Of which images; those of the other splits stay unseen.")
_IMAGES = flags.DEFINE_integer("images", 2000, "How many of them.", lower_bound=1)
_POINTS = ("left eye", "right eye", "nose", "mouth left", "mouth right")


def main(_: list[str]) -> None:
    set_environment()
    import agegender as ag
    from agegender.inference.alignment import CROP, TEMPLATE, similarity, yaw_ratio
    from agegender.inference.detection import FaceDetector

    batches = ag.load_utkface(_SPLIT.value, batch_size=1, image_size=CROP, data_dir=_DATA_DIR.value)
    images = [np.asarray(batch[0]) for batch, _ in itertools.islice(batches, _IMAGES.value)]
    found = [max(faces, key=lambda face: face.box[2] - face.box[0]) for faces in map(FaceDetector(), images) if faces]
    landmarks = np.array([face.landmarks for face in found])
    matrices = np.array(list(map(similarity, landmarks)))
    cut = landmarks @ matrices[:, :, :2].swapaxes(1, 2) + matrices[:, None, :, 2]
    own, again = (np.median(np.linalg.norm(places - TEMPLATE, axis=-1), axis=0) for places in (landmarks, cut))
    print(f"{len(found)} of {len(images)} images have a face. Pixels, medians:\n")
    print("| landmark | x | y | from the template, as UTKFace cuts | as `cut` cuts |\n|---|---|---|---|---|")
    for row in zip(_POINTS, *np.median(landmarks, axis=0).T, own, again, strict=True):
        print("| {} | {:.1f} | {:.1f} | {:.1f} | {:.1f} |".format(*row))
    turned = np.percentile(np.abs(list(map(yaw_ratio, landmarks))), [50, 95, 99])
    scales = np.percentile(np.hypot(matrices[:, 0, 0], matrices[:, 1, 0]), [5, 50, 95])
    print("\nTurned by less than {:.2f}, {:.2f}, {:.2f}: 50, 95, 99 % of the faces".format(*turned))
    print("Scale of the cut: {:.3f}, {:.3f}, {:.3f} at 5, 50, 95 %".format(*scales))


if __name__ == "__main__":
    app.run(main)
