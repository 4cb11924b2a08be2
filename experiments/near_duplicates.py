r"""What justifies the measure of near-duplicates: how alike altered copies are, how alike different photographs are.

  python -m experiments.near_duplicates --manual_dir=FOLDER --plot=docs/near_duplicates.png

prints how many altered copies of images are found, for each kind of alteration, counts the pairs of the data set by
likeness, and draws both. `--fit` first fits the projection in which candidates are looked for and writes it beside the
builder: a linear discriminant analysis of cropped images against different ones.
"""

import io
import pathlib
import sys
import tempfile
from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
import scipy.linalg
from absl import app, flags
from numpy.typing import NDArray
from PIL import Image

matplotlib.use("Agg")
from matplotlib import pyplot

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "datasets"))  # `datasets` is somebody else's package
from utkface import collect, near_duplicates, sources

_MANUAL_DIR = flags.DEFINE_string("manual_dir", None, "The folder of the images, as for `tfds build`.", required=True)
_PLOT = flags.DEFINE_string("plot", None, "Where to draw the distances, a PNG; nothing is drawn without it.")
_SAMPLE = flags.DEFINE_integer("sample", 2000, "How many images are altered.", lower_bound=10)
_FIT = flags.DEFINE_bool("fit", False, "Fit the projection first and write it beside the builder.")

NUMBERS = 16
Alter = Callable[[Image.Image], Image.Image]


def cropped(image: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    """Returns the image without these shares of its sides, at its old size."""
    width, height = image.size
    box = (left * width, top * height, width - right * width, height - bottom * height)
    return image.resize(image.size, Image.Resampling.BICUBIC, box)


def recompressed(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def _crop_all(share: float) -> Alter:
    return lambda image: cropped(image, share, share, share, share)


def _crop_two(share: float) -> Alter:
    return lambda image: cropped(image, share, 0, 0, share)


ALTERATIONS: dict[str, Alter] = {
    "recompressed, quality 50": lambda image: recompressed(image, 50),
    "recompressed, quality 20": lambda image: recompressed(image, 20),
    "reduced to half": lambda image: image.reduce(2),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "grey and darker": lambda image: image.convert("L").point(lambda value: value * 0.7),
    **{f"cropped by {share} % of each side": _crop_all(share / 100) for share in (1, 2, 3, 4, 5)},
    **{f"cropped by {share} % of two sides": _crop_two(share / 100) for share in (2, 4)},
    "cropped by 2 %, mirrored, quality 50": lambda image: recompressed(
        cropped(image, 0.02, 0.02, 0.02, 0.02).transpose(Image.Transpose.FLIP_LEFT_RIGHT), 50
    ),
}


def thumbnails(images: Sequence[Image.Image], alter: Alter = lambda image: image) -> NDArray[np.uint8]:
    return np.stack([near_duplicates.thumbnail(np.asarray(alter(image).convert("RGB"))) for image in images])


def fitted(images: Sequence[Image.Image]) -> NDArray[np.floating]:
    """Returns the directions that tell images apart best for how little a crop of 4 % changes them: [16, 63].

    The changes have variance 1 in each, which makes the unit of distance. Each direction is made of waves of one parity
    only, so that mirroring a image turns signs and nothing else.
    """
    spectra = near_duplicates.spectrum(thumbnails(images))
    crops = [_crop_all(0.04), _crop_two(0.04), lambda image: cropped(image, 0, 0.04, 0.04, 0)]
    changes = np.concatenate([near_duplicates.spectrum(thumbnails(images, crop)) - spectra for crop in crops])
    within, between = changes.T @ changes / len(changes), np.cov(spectra.T)
    within, between = (
        (each + np.outer(near_duplicates.MIRROR, near_duplicates.MIRROR) * each) / 2 for each in (within, between)
    )
    _, directions = scipy.linalg.eigh(between, within + 1e-5 * np.eye(len(within)))
    return directions[:, ::-1][:, :NUMBERS].T


def share_found(originals: NDArray[np.uint8], altered: NDArray[np.uint8]) -> float:
    """Returns how many of the altered thumbnails are paired with their own original, as a share."""
    count = len(originals)
    pairs = near_duplicates.find_matches(np.concatenate([originals, altered]))
    return float(np.mean(np.isin(np.arange(count), pairs[pairs[:, 1] - pairs[:, 0] == count, 0])))


def likeness(all_thumbnails: NDArray[np.uint8], pairs: NDArray[np.intp], mirrored: NDArray[np.bool_]) -> NDArray:
    """Returns the correlation of pairs as they lie at 16 x 16, and registered at 32 x 32: [pairs, 2]."""
    found = []
    for chunk in range(0, len(pairs), 512):
        (first, second), turn = all_thumbnails[pairs[chunk : chunk + 512].T], mirrored[chunk : chunk + 512]
        first = np.where(turn[:, None, None], first[:, :, ::-1], first)
        found.append(near_duplicates.correlations(first.astype(np.float32), second.astype(np.float32)))
    return np.concatenate(found)


def draw(path: str, pairs: NDArray, altered: dict[str, NDArray]) -> None:
    """Draws how many pairs of the data set have which likeness, and where altered copies lie."""
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained", sharey=True)
    titles = ("as they lie, 16 x 16 pixels", "one registered on the other, 32 x 32 pixels")
    bounds = (near_duplicates.MIN_CORRELATION, near_duplicates.MIN_REGISTERED)
    for column, (axis, title, bound) in enumerate(zip(axes, titles, bounds, strict=True)):
        bins = np.linspace(0.94, 1.0001, 61)
        axis.hist(pairs[:, column], bins, color="0.75", label="pairs of the data set")
        for (name, values), colour in zip(altered.items(), ("#0072b2", "#d55e00", "#009e73"), strict=False):
            axis.hist(values[:, column], bins, histtype="step", color=colour, label=f"copies {name}")
        axis.axvline(bound, color="black", linestyle="--", label=f"the same from {bound} on")
        axis.set(title=title, xlabel="correlation", yscale="log")
        axis.legend(fontsize=8, loc="upper left")
    axes[0].set_ylabel("pairs")
    figure.savefig(path, dpi=110)


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"No arguments beside flags. Received: {argv[1:]}")
    with tempfile.TemporaryDirectory() as scratch:
        forms = sources.find_sources(pathlib.Path(_MANUAL_DIR.value), "aligned_cropped")
        taken = collect.collect_images(forms, pathlib.Path(scratch))
        chosen = np.random.default_rng(0).permutation(len(taken.paths))[: _SAMPLE.value]
        images = []
        with taken.data_file.open("rb") as file:
            for start, end in taken.spans[chosen]:
                file.seek(start)
                images.append(Image.fromarray(collect.decode_jpeg(file.read(end - start))))
        if _FIT.value:
            target = pathlib.Path(near_duplicates.__file__).with_name("projection.csv")
            np.savetxt(target, fitted(images) + 0.0, fmt="%.3f", delimiter=",")
            near_duplicates.projection.cache_clear()
            print(f"Fitted on {len(images):,} images: {target}")
        report(np.array(taken.thumbnails), images)


def report(all_thumbnails: NDArray[np.uint8], images: Sequence[Image.Image]) -> None:
    """Prints what is found of altered copies and the pairs of the whole set by likeness, and draws them if asked to."""
    originals, upright = thumbnails(images), np.zeros(len(images), bool)
    own = np.stack([np.arange(len(images)), np.arange(len(images)) + len(images)], 1)
    print(f"{'copies':40} {'found':>7} {'registered: 1st percentile':>27}")
    altered = {}
    for name, alter in ALTERATIONS.items():
        copies = thumbnails(images, alter)
        turned = upright | ("mirrored" in name)
        altered[name] = likeness(np.concatenate([originals, copies]), own, turned)
        print(
            f"{name:40} {share_found(originals, copies):7.1%} {np.quantile(altered[name][:, 1], 0.01):27.4f}",
            flush=True,
        )
    pairs, mirrored = near_duplicates.find_candidates(all_thumbnails, np.arange(len(all_thumbnails)))
    found = likeness(all_thumbnails, pairs, mirrored)
    edges = [-1, 0.9, 0.95, 0.96, 0.97, 0.975, 0.98, 0.985, 0.988, 0.99, 0.992, 0.995, 0.998, 1.001]
    print(f"\n{len(all_thumbnails):,} images, {len(pairs):,} candidate pairs")
    print(f"{'correlation':16} {'as they lie':>12} {'registered':>12}")
    counts = [np.histogram(found[:, column], edges)[0] for column in (0, 1)]
    for low, high, *count in zip(edges, edges[1:], *counts, strict=False):
        print(f"{max(low, 0):.3f} to {min(high, 1):.3f}   {count[0]:12,} {count[1]:12,}")
    if _PLOT.value:
        shown = ("recompressed, quality 20", "cropped by 2 % of each side", "cropped by 5 % of each side")
        draw(_PLOT.value, found, {name: altered[name] for name in shown})


if __name__ == "__main__":
    app.run(main)
