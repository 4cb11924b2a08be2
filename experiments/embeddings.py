r"""Computes what a face recogniser says of each image, for `load_utkface(..., embeddings=...)`.

    pip install -e '.[distill]'
    python -m experiments.embeddings --data_dir=px64 --data_dir=px200 --out=embeddings.npz

The recogniser is dlib's ResNet (public domain): 128 numbers a face, of which those of one person are near each other.
Of an image in several data sets, the last one counts, so name the sharpest last. About 20 images a second and core.
"""

import pathlib
from collections.abc import Callable, Iterator

import numpy as np
from absl import flags
from PIL import Image

from agegender.files import atomic_write
from experiments import command

SIDE = 200  # pixels a side at which dlib looks for the five landmarks
FACE = (38, 38, 162, 162)  # left, top, right, bottom of the face in UTKFace's aligned images of 200 px
CHIP = 150  # pixels a side of the recogniser's input
PADDING = 0.25  # around the face, as the recogniser was trained


def load_recogniser() -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function from an aligned face, uint8 RGB [size, size, 3], to 128 numbers."""
    try:
        import dlib
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error}. Run: pip install -e '.[distill]'") from None
    from agegender.models.dlib_trunk import find_dlib_weights

    weights = find_dlib_weights()
    find_landmarks = dlib.shape_predictor(str(weights.with_name("shape_predictor_5_face_landmarks.dat")))
    recogniser = dlib.face_recognition_model_v1(str(weights))
    face = dlib.rectangle(*FACE)

    def embed(image: np.ndarray) -> np.ndarray:
        resized = np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        chip = dlib.get_face_chip(resized, find_landmarks(resized, face), CHIP, PADDING)
        return np.array(recogniser.compute_face_descriptor(chip), "float32")

    return embed


def embed_dataset(
    data_dir: str, image_size: int, embed: Callable[[np.ndarray], np.ndarray]
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields file name and embedding of each image of a prepared data set."""
    import agegender as ag

    for images, targets in ag.load_utkface(
        "all", batch_size=64, image_size=image_size, labels=["file_name"], data_dir=data_dir
    ):
        for image, name in zip(images.numpy(), targets["file_name"].numpy()[:, 0], strict=True):
            yield name.decode(), embed(image)


def main(_: list[str]) -> None:
    from keras.utils import Progbar

    from agegender.data.prepared import count_images, find_prepared, stored_size

    values, embeddings, embed = flags.FLAGS, {}, load_recogniser()
    for data_dir in values.data_dir:
        builder = find_prepared(data_dir)
        image_size = max(stored_size(builder) or [SIDE])
        bar = Progbar(count_images(builder, "all"), unit_name="image")
        for name, embedding in embed_dataset(data_dir, image_size, embed):
            embeddings[name] = embedding
            bar.add(1)
    with atomic_write(pathlib.Path(values.out)) as temporary, open(temporary, "wb") as file:
        np.savez(file, file_name=np.array(list(embeddings)), embedding=np.stack(list(embeddings.values())))
    print(f"{len(embeddings):,} embeddings: {values.out}")


if __name__ == "__main__":
    flags.DEFINE_multi_string("data_dir", None, "Where `tfds build` wrote; several times for several.", required=True)
    flags.DEFINE_string("out", "embeddings.npz", "The file to write.")
    command.run(main)
