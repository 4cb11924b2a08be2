r"""Measures the near-duplicate search: which altered copies it finds, and how similar different photographs are.

    python -m experiments.near_duplicates --manual_dir=FOLDER --plot=docs/near_duplicates.png

Prints the share of altered copies that are found for each alteration, and the number of pairs of the data set by
correlation, and plots both. `--fit` first fits the projection that candidates are searched in, a linear discriminant
analysis of cropped images against different ones, and writes it beside the builder.
"""

import io
import pathlib
import sys
import tempfile
from collections.abc import Callable, Sequence

import numpy as np
import scipy.linalg
from absl import flags
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from experiments import command

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "datasets"))  # `datasets` is another package
from utkface import collect, near_duplicates, sources

_DIRECTIONS = 16  # of the projection
_EDGES = [-1, 0.9, 0.95, 0.96, 0.97, 0.975, 0.98, 0.985, 0.988, 0.99, 0.992, 0.995, 0.998, 1.001]
Alteration = Callable[[Image.Image], Image.Image]


def crop(left: float, top: float, right: float, bottom: float) -> Alteration:
    """Crops these shares of the sides and resizes to the old size."""

    def alter(image: Image.Image) -> Image.Image:
        width, height = image.size
        box = (left * width, top * height, width - right * width, height - bottom * height)
        return image.resize(image.size, Image.Resampling.BICUBIC, box)

    return alter


def recompress(image: Image.Image, quality: int) -> Image.Image:
    image.save(buffer := io.BytesIO(), "JPEG", quality=quality)
    return Image.open(buffer)


def mirror(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


ALTERATIONS: dict[str, Alteration] = {
    "recompressed, quality 50": lambda image: recompress(image, 50),
    "recompressed, quality 20": lambda image: recompress(image, 20),
    "reduced to half": lambda image: image.reduce(2),
    "mirrored": mirror,
    "grey and darker": lambda image: image.convert("L").point(lambda value: value * 0.7),
    **{f"cropped by {n} % of each side": crop(n / 100, n / 100, n / 100, n / 100) for n in (1, 2, 3, 4, 5)},
    **{f"cropped by {n} % of two sides": crop(n / 100, 0, 0, n / 100) for n in (2, 4)},
    "cropped by 2 %, mirrored, quality 50": lambda image: recompress(mirror(crop(0.02, 0.02, 0.02, 0.02)(image)), 50),
}
_PLOTTED = ("recompressed, quality 20", "cropped by 2 % of each side", "cropped by 5 % of each side")


def make_thumbnails(images: Sequence[Image.Image], alter: Alteration = lambda image: image) -> NDArray[np.uint8]:
    return np.stack([near_duplicates.thumbnail(np.asarray(alter(image).convert("RGB"))) for image in images])


def fit_projection(images: Sequence[Image.Image]) -> NDArray[np.floating]:
    """Finds the 16 directions [16, 63] that separate different images best, relative to the change of a 4 % crop.

    A crop changes each projection by a variance of 1. Each direction has waves of one parity only, so that mirroring
    an image changes signs only.
    """
    spectra = near_duplicates.spectrum(make_thumbnails(images))
    crops = (crop(0.04, 0.04, 0.04, 0.04), crop(0.04, 0, 0, 0.04), crop(0, 0.04, 0.04, 0))
    changes = np.concatenate([near_duplicates.spectrum(make_thumbnails(images, alter)) - spectra for alter in crops])
    same_parity = (1 + np.outer(near_duplicates.MIRROR, near_duplicates.MIRROR)) / 2
    within, between = (same_parity * each for each in (changes.T @ changes / len(changes), np.cov(spectra.T)))
    _, directions = scipy.linalg.eigh(between, within + 1e-5 * np.eye(len(within)))
    return directions[:, ::-1][:, :_DIRECTIONS].T


def compute_share_found(originals: NDArray[np.uint8], altered: NDArray[np.uint8]) -> float:
    """The share of altered thumbnails that match their own original."""
    count = len(originals)
    pairs = near_duplicates.find_matches(np.concatenate([originals, altered]))
    return float(np.mean(np.isin(np.arange(count), pairs[pairs[:, 1] - pairs[:, 0] == count, 0])))


def compute_correlations(thumbnails: NDArray[np.uint8], pairs: NDArray, mirrored: NDArray[np.bool_]) -> NDArray:
    """The correlation of each pair as stored, at 16 x 16, and registered, at 32 x 32: [pairs, 2]."""
    found = []
    for start in range(0, len(pairs), 512):
        (first, second), flip = thumbnails[pairs[start : start + 512].T], mirrored[start : start + 512]
        first = np.where(flip[:, None, None], first[:, :, ::-1], first)
        found.append(near_duplicates.correlations(first.astype(np.float32), second.astype(np.float32)))
    return np.concatenate(found)


def draw_correlations(pairs: NDArray, altered: dict[str, NDArray]) -> Figure:
    """Draws histograms of the correlations of the data set's pairs and of altered copies."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    titles = ("as stored, 16 x 16 pixels", "after registration, 32 x 32 pixels")
    thresholds = (near_duplicates.MIN_CORRELATION, near_duplicates.MIN_REGISTERED)
    for column, axes in enumerate(figure.subplots(1, 2, sharey=True)):
        bins = np.linspace(0.94, 1.0001, 61)
        axes.hist(pairs[:, column], bins, color="0.75", label="pairs of the data set")
        for (name, values), colour in zip(altered.items(), ("#0072b2", "#d55e00", "#009e73"), strict=True):
            axes.hist(values[:, column], bins, histtype="step", color=colour, label=f"copies {name}")
        axes.axvline(thresholds[column], color="black", linestyle="--", label=f"threshold {thresholds[column]}")
        axes.set(title=titles[column], xlabel="correlation", ylabel="pairs", yscale="log")
        axes.legend(fontsize=8, loc="upper left")
    return figure


def measure_copies(images: Sequence[Image.Image]) -> dict[str, NDArray]:
    """Prints how many altered copies of each kind are found, and returns their correlations."""
    originals = make_thumbnails(images)
    pairs = np.stack([np.arange(len(images)), np.arange(len(images)) + len(images)], 1)
    print(f"{'copies':40} {'found':>7} {'registered: 1st percentile':>27}")
    correlations = {}
    for name, alter in ALTERATIONS.items():
        copies = make_thumbnails(images, alter)
        mirrored = np.full(len(images), "mirrored" in name)
        correlations[name] = compute_correlations(np.concatenate([originals, copies]), pairs, mirrored)
        percentile = np.quantile(correlations[name][:, 1], 0.01)
        print(f"{name:40} {compute_share_found(originals, copies):7.1%} {percentile:27.4f}", flush=True)
    return correlations


def measure_pairs(thumbnails: NDArray[np.uint8]) -> NDArray:
    """Prints the number of candidate pairs of the data set by correlation, and returns their correlations."""
    pairs, mirrored = near_duplicates.find_candidates(thumbnails, np.arange(len(thumbnails)))
    correlations = compute_correlations(thumbnails, pairs, mirrored)
    print(f"\n{len(thumbnails):,} images, {len(pairs):,} candidate pairs")
    print(f"{'correlation':16} {'as stored':>12} {'registered':>12}")
    stored, registered = (np.histogram(correlations[:, column], _EDGES)[0] for column in (0, 1))
    for low, high, *counts in zip(_EDGES, _EDGES[1:], stored, registered, strict=False):
        print(f"{max(low, 0):.3f} to {min(high, 1):.3f}   {counts[0]:12,} {counts[1]:12,}")
    return correlations


def main(_: list[str]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        found = sources.find_sources(pathlib.Path(flags.FLAGS.manual_dir), "aligned_cropped")
        collected = collect.collect_images(found, pathlib.Path(scratch))
        chosen = np.random.default_rng(0).permutation(len(collected.paths))[: flags.FLAGS.sample]
        with collected.data_file.open("rb") as file:
            images = []
            for start, end in collected.spans[chosen]:
                file.seek(start)
                images.append(Image.fromarray(collect.decode_jpeg(file.read(end - start))))
        thumbnails = np.array(collected.thumbnails)
    if flags.FLAGS.fit:
        path = pathlib.Path(near_duplicates.__file__).with_name("projection.csv")
        np.savetxt(path, fit_projection(images) + 0.0, fmt="%.3f", delimiter=",")
        near_duplicates.projection.cache_clear()
        print(f"Fitted to {len(images):,} images: {path}")
    copies, pairs = measure_copies(images), measure_pairs(thumbnails)
    if flags.FLAGS.plot:
        draw_correlations(pairs, {name: copies[name] for name in _PLOTTED}).savefig(flags.FLAGS.plot, dpi=110)


if __name__ == "__main__":
    flags.DEFINE_string("manual_dir", None, "The folder of the images, as for `tfds build`.", required=True)
    flags.DEFINE_string("plot", None, "PNG file to plot the correlations to.")
    flags.DEFINE_integer("sample", 2000, "Number of images to alter.", lower_bound=10)
    flags.DEFINE_bool("fit", False, "Fit the projection first and write it beside the builder.")
    command.run(main)
