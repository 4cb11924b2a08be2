"""Draws smooth outlines, curves and shading in the coordinates of a posed face."""

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFilter

Floats = NDArray[np.float64]
Pixels = NDArray[np.float32]  # [size, size, 3]

UNIT: Final = 200.0  # lengths are in pixels of a 200 pixel image
CENTRE: Final = np.array([98.5, 100.0])  # where UTKFace's crops have the nose: a little left of the middle
SHADOW: Final = np.array([-102, -128, -140])  # change of colour in full shadow
NEUTRAL: Final = 128  # level of the shade layer that changes nothing
CIRCLE: Final = np.stack([f(np.linspace(0, 2 * np.pi, 22, endpoint=False)) for f in (np.cos, np.sin)], 1)
STEPS: Final = np.linspace(0, 1, 5, endpoint=False)[:, None] ** np.arange(4)
CATMULL_ROM: Final = STEPS @ np.array([[0, 2, 0, 0], [-1, 0, 1, 0], [2, -5, 4, -1], [-1, 3, -3, 1]]) / 2


def _smooth_curve(points: ArrayLike, *, closed: bool) -> Floats:
    """Returns a Catmull-Rom curve through points [n, 2]."""
    knots = np.asarray(points, np.float64)
    ring = np.concatenate([knots[-1:], knots, knots[:2]] if closed else [knots[:1], knots, knots[-1:]])
    windows = np.stack([ring[i : len(ring) - 3 + i] for i in range(4)], 1)
    curve = (CATMULL_ROM @ windows).reshape(-1, 2)
    return curve if closed else np.concatenate([curve, knots[-1:]])


def mirror(*half: tuple[float, float]) -> Floats:
    """Returns a symmetric outline from its right half, listed from top to bottom."""
    return np.array([*half, *((-x, y) for x, y in reversed(half) if x > 0)], np.float64)


def _to_colour(colour: ArrayLike) -> tuple[int, ...]:
    return tuple(np.clip(colour, 0, 255).astype(int).tolist())


class Pen:
    """Draws on two layers: colours with hard edges, and shading that is blurred and multiplied with them.

    Coordinates are those of the face: x from its middle, y from the top of the image. A random pose maps them to
    pixels. Layers are larger than the image; reducing them smooths the edges.
    """

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        small = size < 100
        self.reduction, shade_side = (3, 2 * size) if small else (2, size)
        background = rng.uniform(40, 225) + rng.normal(0, 25, 3)
        self.canvas = Image.new("RGB", (size * self.reduction,) * 2, _to_colour(background))
        self.shades = Image.new("RGB", (shade_side, shade_side), (NEUTRAL,) * 3)
        self.colour_layer, self.shade_layer = ImageDraw.Draw(self.canvas), ImageDraw.Draw(self.shades)
        roll, zoom = rng.normal(0, np.deg2rad(3.5)), rng.normal(1, 0.025)
        self.rotation = zoom * np.array([[np.cos(roll), np.sin(roll)], [-np.sin(roll), np.cos(roll)]])
        self.shift = CENTRE + rng.normal(0, 2.5, 2)
        self.yaw = rng.normal(0, 5)

    def _to_pixels(self, points: Floats, layer: Image.Image) -> list[float]:
        x, y = points.T
        # A turned head moves the nose further than the ears.
        turned = np.stack([x + self.yaw * np.maximum(0, 1 - (x / 92) ** 2), y - CENTRE[1]], 1)
        placed: list[float] = ((turned @ self.rotation + self.shift) * (layer.width / UNIT)).ravel().tolist()
        return placed

    def fill(self, points: ArrayLike, colour: ArrayLike) -> None:
        """Fills a smooth closed outline [n, 2] with an RGB colour."""
        self.colour_layer.polygon(self._to_pixels(_smooth_curve(points, closed=True), self.canvas), _to_colour(colour))

    def oval(self, x: float, y: float, radii: ArrayLike, colour: ArrayLike) -> None:
        """Fills an ellipse."""
        self.colour_layer.polygon(
            self._to_pixels(CIRCLE * np.asarray(radii, np.float64) + np.array([x, y]), self.canvas), _to_colour(colour)
        )

    def line(self, points: ArrayLike, colour: ArrayLike, width: float) -> None:
        """Draws a smooth open curve."""
        pixels = self._to_pixels(_smooth_curve(points, closed=False), self.canvas)
        self.colour_layer.line(pixels, _to_colour(colour), max(1, round(width * self.canvas.width / UNIT)))

    def crease(self, points: ArrayLike, depth: float, width: float = 3.0) -> None:
        """Darkens along a curve; lines thinner than a pixel are lighter."""
        thickness = width * self.shades.width / UNIT
        if depth > 0.01:
            pixels = self._to_pixels(_smooth_curve(points, closed=False), self.shades)
            self.shade_layer.line(
                pixels, _to_colour(NEUTRAL + SHADOW * depth * min(1.0, thickness)), max(1, round(thickness))
            )

    def glow(self, x: float, y: float, radii: ArrayLike, change: ArrayLike) -> None:
        """Lightens or darkens softly around a point: `change` is a fraction for all colours or for each."""
        for ring in (1.0, 0.6):
            pixels = self._to_pixels(CIRCLE * np.asarray(radii, np.float64) * ring + np.array([x, y]), self.shades)
            self.shade_layer.polygon(
                pixels, _to_colour(np.full(3, NEUTRAL) * (1 + np.asarray(change, np.float64) * (1.4 - ring)))
            )

    def cover(self, points: ArrayLike, colour: ArrayLike) -> None:
        """Fills an outline and removes the shading under it."""
        self.shade_layer.polygon(self._to_pixels(_smooth_curve(points, closed=True), self.shades), (NEUTRAL,) * 3)
        self.fill(points, colour)

    def finish(self) -> Pixels:
        """Returns the image, float32 [size, size, 3]."""
        soft = self.shades.filter(ImageFilter.GaussianBlur(self.shades.width * 0.01))
        colours = np.asarray(self.canvas.reduce(self.reduction), np.float32)
        shade = np.asarray(soft.reduce(soft.width // len(colours)), np.float32)
        return np.multiply(colours, shade * np.float32(1 / NEUTRAL), dtype=np.float32)
