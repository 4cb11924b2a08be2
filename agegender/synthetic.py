"""Illustrated faces whose looks follow age, gender and race: a stand-in for UTKFace, drawn with numpy and Pillow.

Nobody's picture is needed to test, to demonstrate or to time the library. The labels show the way they do in people:
on average, with overlap: small children hardly show their gender, some women wear short hair, some sixty-year-olds
look fifty. Features sit about where the aligned crops of UTKFace have them. To write a folder of them:
`python -m agegender.synthetic --out=DIR`.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFilter

from agegender import schema

Floats = NDArray[np.float64]
Pixels = NDArray[np.float32]  # [size, size, 3]

MIN_SIZE: Final = 16
MAX_SIZE: Final = 1024
MAX_SEED: Final = 2**63 - 1
UNIT: Final = 200.0  # every length below is in pixels of a 200 pixel crop
CENTRE: Final = np.array([98.5, 100.0])  # of UTKFace's crops: the nose is a little left of the middle
SKINS: Final = np.array([(236, 198, 174), (124, 84, 64), (233, 199, 160), (178, 130, 98), (208, 164, 132)], np.float64)
DARK_HAIR: Final = np.array([(38, 28, 24), (62, 42, 30), (22, 20, 22)], np.float64)
LIGHT_HAIR: Final = np.array([(96, 62, 38), (140, 96, 54), (206, 168, 104), (150, 74, 40)], np.float64)
IRISES: Final = np.array([(66, 42, 28), (92, 60, 36), (84, 124, 160), (92, 122, 84)], np.float64)
GREY: Final = np.array([206, 206, 204], np.float64)
INK: Final = np.array([36, 26, 26], np.float64)
SHADOW: Final = np.array([-102, -128, -140])  # what a full shadow takes; on skin it is warm
NEUTRAL: Final = 128  # the level of the shade layer that leaves a colour as it is
CIRCLE: Final = np.stack([f(np.linspace(0, 2 * np.pi, 22, endpoint=False)) for f in (np.cos, np.sin)], 1)
STEPS: Final = np.linspace(0, 1, 5, endpoint=False)[:, None] ** np.arange(4)
CATMULL_ROM: Final = STEPS @ np.array([[0, 2, 0, 0], [-1, 0, 1, 0], [2, -5, 4, -1], [-1, 3, -3, 1]]) / 2
RACE_CYCLE: Final = (0, 1, 2, 3, 4, 0, 1, 3, 0, 2)  # ten faces in a row show every race, White the most often
FIRST_SHOT: Final = datetime(2017, 1, 9, 8, 30)


@dataclass(frozen=True)
class _Person:
    """What all parts of a face share: fractions in about [0, 1], colours in 0..255, lengths in pixels of 200."""

    rng: np.random.Generator  # each part draws what only it needs
    youth: float
    old: float
    masculine: float  # about -1..1
    bearded: bool
    folds: float
    skin: Floats
    hair: Floats
    hair_length: float
    race: int
    eye_y: float
    nose_y: float
    mouth_y: float
    chin_y: float
    width: float
    jaw: float


def _mix(first: Floats, second: ArrayLike, share: float) -> Floats:
    return first + (np.asarray(second) - first) * min(1.0, max(0.0, share))


def _hair_colour(rng: np.random.Generator, race: int, seen_age: float) -> Floats:
    choices = LIGHT_HAIR if rng.random() < (0.75, 0.02, 0.03, 0.02, 0.2)[race] else DARK_HAIR
    colour = choices[rng.integers(len(choices))] * rng.uniform(0.8, 1.2)
    return _mix(colour, GREY, 1 / (1 + np.exp((rng.normal(57, 7) - seen_age) / 6)))


def _imagine(rng: np.random.Generator, age: int, gender: int, race: int) -> _Person:
    """Draw a person. A noisy "seen age" and a noisy "masculine" carry the labels: no model can be perfect."""
    seen_age = age * np.exp(rng.normal(0, 0.09)) + rng.normal(0, 0.7)
    youth = float(1 / (1 + np.exp((seen_age - 8) / 3.5)))
    old = float(np.clip((seen_age - 24) / 60, 0, 1.25))
    masculine = (1 - 2 * gender) * (0.12 + 0.88 * (1 - youth) ** 1.5) + rng.normal(0, 0.55)
    eye_y, mouth_y = rng.normal((61 + 13 * youth, 136 - youth), 1.5)
    return _Person(
        rng=rng,
        youth=youth,
        old=old,
        masculine=float(np.clip(masculine, -1.8, 1.8)),
        bearded=gender == 0 and age >= 17 and rng.random() < 0.5 + 0.1 * masculine,
        folds=old * np.exp(rng.normal(0, 0.2)) + 0.08 * (1 - youth),
        skin=np.clip(SKINS[race] * np.exp(rng.normal(0, 0.08)) * rng.normal(1, 0.015, 3), 30, 245),
        hair=_hair_colour(rng, race, seen_age),
        hair_length=float(np.clip(0.42 - 0.5 * masculine + rng.normal(0, 0.16), 0, 1)) * (1 - 0.6 * youth),
        race=race,
        eye_y=eye_y,
        nose_y=eye_y + (mouth_y - eye_y) * (0.56 + 0.02 * old),
        mouth_y=mouth_y,
        chin_y=186 - 13 * youth + 2 * masculine + rng.normal(0, 2),
        width=83 + 4 * youth - 2 * old + rng.normal(0, 2),
        jaw=61 + 3.5 * masculine + 8 * youth + 5 * old + rng.normal(0, 2.5),
    )


def _smooth(points: ArrayLike, *, closed: bool) -> Floats:
    """Run a Catmull-Rom curve through points [n, 2]."""
    knots = np.asarray(points, np.float64)
    ring = np.concatenate([knots[-1:], knots, knots[:2]] if closed else [knots[:1], knots, knots[-1:]])
    windows = np.stack([ring[i : len(ring) - 3 + i] for i in range(4)], 1)
    curve = (CATMULL_ROM @ windows).reshape(-1, 2)
    return curve if closed else np.concatenate([curve, knots[-1:]])


def _mirror(*half: tuple[float, float]) -> Floats:
    """Close an outline from its right half, listed from top to bottom."""
    return np.array([*half, *((-x, y) for x, y in reversed(half) if x > 0)], np.float64)


def _level(colour: ArrayLike) -> tuple[int, ...]:
    return tuple(np.clip(colour, 0, 255).astype(int).tolist())


class _Pen:
    """Draws on two layers: colours with hard edges, and a shade that is blurred and multiplied over them.

    Coordinates are the face's own: x from the middle of the face, y from the top of the crop. The pose turns them
    into pixels. Drawing larger than the picture and reducing is what smooths the edges.
    """

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        small = size < 100
        self.reduction, shade_side = (3, 2 * size) if small else (2, size)
        paper = rng.uniform(40, 225) + rng.normal(0, 25, 3)
        self.canvas = Image.new("RGB", (size * self.reduction,) * 2, _level(paper))
        self.shades = Image.new("RGB", (shade_side, shade_side), (NEUTRAL,) * 3)
        self.colour_layer, self.shade_layer = ImageDraw.Draw(self.canvas), ImageDraw.Draw(self.shades)
        roll, zoom = rng.normal(0, np.deg2rad(3.5)), rng.normal(1, 0.025)
        self.rotation = zoom * np.array([[np.cos(roll), np.sin(roll)], [-np.sin(roll), np.cos(roll)]])
        self.shift = CENTRE + rng.normal(0, 2.5, 2)
        self.turn = rng.normal(0, 5)

    def _place(self, points: Floats, layer: Image.Image) -> list[float]:
        x, y = points.T
        # A turned head moves the nose further than the ears.
        turned = np.stack([x + self.turn * np.maximum(0, 1 - (x / 92) ** 2), y - CENTRE[1]], 1)
        placed: list[float] = ((turned @ self.rotation + self.shift) * (layer.width / UNIT)).ravel().tolist()
        return placed

    def fill(self, points: ArrayLike, colour: ArrayLike) -> None:
        """Fill a smooth closed outline [n, 2] with an RGB colour."""
        self.colour_layer.polygon(self._place(_smooth(points, closed=True), self.canvas), _level(colour))

    def oval(self, x: float, y: float, radii: ArrayLike, colour: ArrayLike) -> None:
        """Fill an ellipse."""
        self.colour_layer.polygon(
            self._place(CIRCLE * np.asarray(radii, np.float64) + np.array([x, y]), self.canvas), _level(colour)
        )

    def line(self, points: ArrayLike, colour: ArrayLike, width: float) -> None:
        """Draw a smooth open curve."""
        place = self._place(_smooth(points, closed=False), self.canvas)
        self.colour_layer.line(place, _level(colour), max(1, round(width * self.canvas.width / UNIT)))

    def crease(self, points: ArrayLike, depth: float, width: float = 3.0) -> None:
        """Darken along a curve; a line thinner than a pixel gets its share of the depth."""
        pixels = width * self.shades.width / UNIT
        if depth > 0.01:
            place = self._place(_smooth(points, closed=False), self.shades)
            self.shade_layer.line(place, _level(NEUTRAL + SHADOW * depth * min(1.0, pixels)), max(1, round(pixels)))

    def glow(self, x: float, y: float, radii: ArrayLike, change: ArrayLike) -> None:
        """Lighten or darken softly around a point: `change` is a fraction, for all colours or for each."""
        for ring in (1.0, 0.6):
            place = self._place(CIRCLE * np.asarray(radii, np.float64) * ring + np.array([x, y]), self.shades)
            self.shade_layer.polygon(
                place, _level(np.full(3, NEUTRAL) * (1 + np.asarray(change, np.float64) * (1.4 - ring)))
            )

    def cover(self, points: ArrayLike, colour: ArrayLike) -> None:
        """Fill an outline and take the shade away that lies under it."""
        self.shade_layer.polygon(self._place(_smooth(points, closed=True), self.shades), (NEUTRAL,) * 3)
        self.fill(points, colour)

    def finish(self) -> Pixels:
        """Return the picture, float [size, size, 3]."""
        soft = self.shades.filter(ImageFilter.GaussianBlur(self.shades.width * 0.01))
        colours = np.asarray(self.canvas.reduce(self.reduction), np.float32)
        shade = np.asarray(soft.reduce(soft.width // len(colours)), np.float32)
        return np.multiply(colours, shade * np.float32(1 / NEUTRAL), dtype=np.float32)


def _draw_behind(pen: _Pen, who: _Person) -> None:
    end = who.eye_y + 10 + 200 * max(0.0, who.hair_length - 0.3)
    side = who.width + 7 + 14 * who.hair_length
    pen.fill(_mirror((0, -40), (side - 6, -10), (side, 40), (side, end - 8), (side - 12, end)), who.hair)
    neck, collar = 44 + 7 * who.masculine - 4 * who.youth, 186 + 8 * who.youth
    pen.fill(_mirror((neck, 140), (neck, 180), (neck + 6, 240)), who.skin * 0.8)
    pen.fill(_mirror((0, 206), (neck + 2, collar), (140, 212), (140, 290)), who.rng.uniform(40, 200, 3))


def _draw_head(pen: _Pen, who: _Person) -> None:
    width, jaw, mouth_y = who.width, who.jaw, who.mouth_y
    for side in (-width - 3, width + 3):
        pen.oval(side, who.eye_y + 20, (7, 15 + 4 * who.old), who.skin * 0.9)
    upper = (0, -38), (width * 0.7, -22), (width, who.eye_y - 12), (width * 0.965, who.nose_y)
    lower = (jaw + 7, mouth_y + 2), (jaw - 15, mouth_y + 30 - 7 * who.youth), (24 + 4 * who.masculine, who.chin_y - 4)
    pen.fill(_mirror(*upper, *lower, (0, who.chin_y)), who.skin)
    rosy = np.array([0.3, -1, -0.8]) * (0.02 + 0.1 * who.youth - 0.02 * who.masculine) + 0.04
    for side in (-1, 1):
        pen.glow(side * 48, who.nose_y + 6, (24, 18), rosy)
        pen.glow(side * (jaw - 14), mouth_y + 22, (14, 9), -0.08 * who.folds)
    for _ in range(who.rng.poisson(12 * max(0.0, who.folds - 0.5))):  # age spots
        x, y = who.rng.uniform((-70, 20), (70, mouth_y + 15))
        pen.oval(x, y, who.rng.uniform(1.2, 3, 2), who.skin * (0.84, 0.78, 0.74))


def _draw_beard(pen: _Pen, who: _Person) -> None:
    density = who.rng.uniform(0.08, 0.85)
    if who.bearded:
        jaw, y = who.jaw, who.mouth_y
        inner = (0, y - 12), (30, y - 10), (42, y + 2), (jaw - 8, y - 8)
        outer = (jaw + 9, y - 22), (jaw + 5, y + 4), (jaw - 14, y + 31), (24, who.chin_y - 3), (0, who.chin_y + 1)
        pen.fill(_mirror(*inner, *outer), _mix(who.skin * 0.95, who.hair, density))


def _draw_eyes(pen: _Pen, who: _Person) -> None:
    wide = 14.5 + 4 * who.youth
    high = (6.6 + 4.6 * who.youth) * (0.88, 1, 0.74, 1, 0.9)[who.race] * (1 - 0.28 * who.old) * who.rng.normal(1, 0.08)
    tilt = who.rng.normal((0, 0, -1.8, 0, -0.5)[who.race], 0.8) + 1.2 * who.old
    colour = IRISES[who.rng.integers(4 if who.race in (0, 4) else 2)]
    radius, rim = min(6.3 + 2.6 * who.youth, high + 1.4), 2.6 - who.masculine * (1 - who.youth)
    for side in (-1, 1):
        x, y = side * 38.5, who.eye_y
        inner, outer = (x - side * wide, y + 1.5), (x + side * wide, y + tilt)
        upper = [inner, (x - side * 5, y - high), (x + side * 6, y - high * 0.95), outer]
        pen.glow(x, y - high - 4, (wide + 3, 6), -0.07)
        pen.fill([*upper, (x + side * 5, y + high * 0.8), (x - side * 6, y + high * 0.8)], (240, 236, 230))
        pen.oval(x, y - 0.3, radius, colour)
        pen.oval(x, y - 0.3, radius * 0.48, INK)
        pen.oval(x - 2, y - 2.4, 1.5, (255, 255, 255))
        pen.line(upper, _mix(who.skin, INK, 0.9), rim)
        _draw_brow(pen, who, side)
        _draw_eye_folds(pen, who, side, wide, high)


def _draw_brow(pen: _Pen, who: _Person, side: int) -> None:
    thick = 3.2 + 1.5 * who.masculine * (1 - who.youth) - 0.8 * who.youth
    y, arch = who.eye_y - 18 - 2 * who.youth + 1.5 * who.masculine, 3.4 - 1.2 * who.masculine
    top = [(22, y - 1), (33, y - arch * 0.6 - thick / 2), (48, y - arch - thick / 2), (60, y + 4 + 2 * who.old)]
    low = [(48, y - arch + thick), (33, y - arch * 0.6 + thick), (22, y - 1 + 1.3 * thick)]
    colour = _mix(_mix(who.hair, INK, 0.25), who.skin, 0.15 + 0.4 * who.youth)
    pen.fill(np.array([*top, *low]) * (side, 1), colour)


def _draw_eye_folds(pen: _Pen, who: _Person, side: int, wide: float, high: float) -> None:
    x, y, low = side * 38.5, who.eye_y, who.eye_y + high
    bag = [(x - side * 14, low + 4), (x, low + 7 + 3 * who.folds), (x + side * 13, low + 4)]
    pen.crease(bag, 0.05 + 0.3 * who.folds)
    for lift in (-5, 1, 7):  # crow's feet
        start, end = (x + side * (wide + 5), y + 2 + lift * 0.4), (x + side * (wide + 19), y + 2 + lift * 1.6)
        pen.crease([start, end], 0.4 * (who.folds - 0.15), 2.2)


def _draw_nose(pen: _Pen, who: _Person, dark_side: float) -> None:
    y, half = (
        who.nose_y,
        (11 - 2.5 * who.youth + 1.5 * who.old + who.masculine) * (0.95, 1.25, 1.08, 1.05, 1.05)[who.race],
    )
    bridge = [(dark_side * 8, who.eye_y - 4), (dark_side * 7, y - 18), (dark_side * half, y - 3)]
    pen.crease(bridge, 0.2 - 0.1 * who.youth, 5)
    pen.glow(0, y - 6, (half * 0.6, 7), 0.08)
    pen.line(_mirror((half, y - 4), (half * 0.9, y + 2), (4, y + 3.5)), who.skin * 0.74, 1.8)
    for side in (-1, 1):
        pen.oval(side * half * 0.48, y + 2, (3.2, 1.7), who.skin * 0.45)
        fold = [(side * (half + 4), y - 3), (side * 30, y + 14), (side * 39, who.mouth_y + 2 + 5 * who.old)]
        pen.crease(fold, min(0.5, 0.03 + 0.48 * who.folds), 3.4)


def _draw_mouth(pen: _Pen, who: _Person) -> None:
    smile, y = who.rng.normal(0.35, 0.4), who.mouth_y
    half, corner = 33 - 6 * who.youth + 3 * smile, y - 5 * smile + 2 * who.old
    gap = 5.5 if who.rng.random() < 0.35 and smile > 0 else 0.0
    full = (1 - 0.5 * who.old) * (1 - 0.18 * who.masculine) * (1 - 0.2 * who.youth)
    lipstick = (who.rng.normal(0.1, 0.2) - 0.4 * who.masculine) * (1 - who.youth) ** 2
    lips = _mix(_mix(who.skin * 0.9, (190, 92, 92), 0.42), (184, 40, 58), min(lipstick, 0.9))
    top = _mirror((0, y - 4.8 * full), (10, y - 6.5 * full), (half, corner))
    pen.fill(_mirror(*map(tuple, top[:3]), (half * 0.55, y + gap + 7 * full), (0, y + gap + 9.5 * full)), lips)
    teeth = _mirror((0, y + 0.5), (half - 3, corner), (half * 0.5, y + gap), (0, y + gap + 1.5))
    pen.fill(teeth, (244, 240, 232) if gap else lips * 0.6)
    pen.glow(0, y + gap + 9.5 * full + 5, (15, 4), -0.1)
    for side in (-1, 1):
        pen.crease([(side * (half + 2), corner + 3), (side * (half + 4), y + 20)], 0.4 * (who.folds - 0.3))


def _draw_forehead(pen: _Pen, who: _Person) -> None:
    for y in who.eye_y - who.rng.normal((31, 39.5, 48), 1):
        pen.crease([(-38, y + 2), (0, y + who.rng.normal(0, 2)), (38, y + 2)], 0.42 * (who.folds - 0.1), 2.6)
    for side in (-1, 1):
        pen.crease([(side * 6, who.eye_y - 22), (side * 5, who.eye_y - 9)], 0.4 * (who.folds - 0.2), 2.4)


def _draw_hair(pen: _Pen, who: _Person) -> None:
    fringe = who.rng.random() < 0.18 + 0.2 * who.youth - 0.1 * who.masculine - 0.1 * who.old
    recede = max(0.0, (who.old - 0.1) * who.rng.uniform(-0.3, 1.9) * (0.25 + 0.75 * (who.masculine > 0)))
    parting, line = who.rng.uniform(-30, 30), 14 + 6 * who.youth + who.rng.normal(0, 4) - 46 * recede
    hairline, width = who.eye_y - 28 if fringe else line, who.width
    temple = width * (0.68 + 0.12 * min(1, recede)), hairline + 18 - 26 * recede
    side = _mirror((0, -60), (width + 12, -10), (width + 9, who.eye_y - 16 + 30 * who.hair_length), temple)
    if recede < 0.95:
        pen.cover(np.insert(side, 4, (parting, hairline), axis=0), who.hair)
        for x in who.rng.uniform(-70, 70, 6):
            strand = [(parting, -12), ((parting + x) * 0.55, -4), (x, hairline - 12 * recede)]
            pen.line(strand, who.hair * who.rng.uniform(0.75, 1.2), 1.6)


def _draw_things(pen: _Pen, who: _Person) -> None:
    """Put on glasses, a hat, or something in front of the face: what should not sway a model."""
    colour, y = who.rng.uniform(15, 110, 3), who.eye_y
    if who.rng.random() < 0.02 + 0.1 * (1 - who.youth) + 0.15 * who.old:
        for side in (-1, 1):
            pen.line((CIRCLE * (25, 18))[[*range(len(CIRCLE)), 0]] + (side * 38.5, y + 3), colour, 2.6)
            pen.line([(side * 63, y - 1), (side * 92, y - 6)], colour, 2.6)
        pen.line([(-14, y), (0, y - 3), (14, y)], colour, 2.6)
    if who.rng.random() < 0.05:
        pen.oval(who.rng.choice([-70, 70]), who.rng.uniform(140, 200), who.rng.uniform(18, 34, 2), colour * 2)
    if who.rng.random() < 0.03:
        pen.cover(_mirror((0, -60), (130, -40), (110, 18), (0, 10)), colour * 1.5)


def _light_up(picture: Pixels, rng: np.random.Generator, light: Floats) -> Pixels:
    """Round the face, light it from one side, and tint it as a lamp or the sky would."""
    x = np.linspace(-1, 1, len(picture), dtype=np.float32)
    y = x[:, None]
    lit = 0.72 + 0.22 * np.sqrt(np.maximum(0, 1.25 - x * x - 0.8 * y * y)) + light[0] * x + light[1] * y
    tint = rng.normal(1, 0.08) * rng.normal(1, 0.02, 3)
    return np.multiply(picture * lit.astype(np.float32)[:, :, None], tint, dtype=np.float32)


def _photograph(picture: Pixels, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Blur, add grain, and round to bytes."""
    blur, grain = max(0.0, rng.normal(0.1, 0.6)), rng.uniform(0.5, 4.0)
    noise = rng.standard_normal(picture.shape[:2], np.float32)[:, :, None] * np.float32(grain)
    photo = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    if blur > 0.2:
        photo = photo.filter(ImageFilter.GaussianBlur(blur * len(picture) / UNIT))
    return np.clip(np.asarray(photo, np.float32) + noise, 0, 255).astype(np.uint8)


def _check(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"`{name}` must be in [{low}, {high}]. Received: {name}={value}")


def draw_face(age: int, gender: int, race: int, *, seed: int, size: int = schema.IMAGE_SIZE) -> NDArray[np.uint8]:
    """Draw one face.

    The picture is a function of the arguments and nothing else; the same seed at another size is the same person.

    Args:
        age: years, in [0, 116].
        gender: 0 male, 1 female.
        race: 0 White, 1 Black, 2 Asian, 3 Indian, 4 Others.
        seed: which of the people of that age, gender and race; 0 or more.
        size: pixels a side, in [16, 1024].

    Returns:
        uint8 RGB [size, size, 3].

    Raises:
        ValueError: an argument is out of its range.

    Example:
        >>> draw_face(26, 1, 2, seed=0, size=64).shape
        (64, 64, 3)
    """
    _check("age", age, schema.MIN_AGE, schema.MAX_AGE)
    _check("gender", gender, 0, len(schema.GENDERS) - 1)
    _check("race", race, 0, len(schema.RACES) - 1)
    _check("seed", seed, 0, MAX_SEED)
    _check("size", size, MIN_SIZE, MAX_SIZE)
    rng = np.random.default_rng([seed, age, gender, race])
    who = _imagine(rng, age, gender, race)
    light, pen = rng.normal(0, (0.13, 0.07)), _Pen(rng, size)
    _draw_behind(pen, who)
    _draw_head(pen, who)
    _draw_beard(pen, who)
    _draw_eyes(pen, who)
    _draw_nose(pen, who, -np.sign(light[0]))
    _draw_mouth(pen, who)
    _draw_forehead(pen, who)
    _draw_hair(pen, who)
    _draw_things(pen, who)
    return _photograph(_light_up(pen.finish(), rng, light), rng)


def draw_people(people: Sequence[tuple[int, int, int, int]], *, size: int = 120) -> NDArray[np.uint8]:
    """Draw people side by side, with the room around each face that a detector wants.

    Args:
        people: age, gender, race and seed of each, as for `draw_face`.
        size: of a face, pixels a side, 1 or more.

    Returns:
        uint8 RGB [size + 2 gap, gap + n (size + gap), 3], grey around the faces; the gap is a third of the size.

    >>> draw_people([(23, 1, 4, 39), (47, 0, 3, 36)]).shape
    (200, 360, 3)
    """
    gap = size // 3
    picture = np.full((size + 2 * gap, gap + len(people) * (size + gap), 3), 128, "uint8")
    for number, (age, gender, race, seed) in enumerate(people):
        left = gap + number * (size + gap)
        picture[gap : gap + size, left : left + size] = draw_face(age, gender, race, seed=seed, size=size)
    return picture


def _age_shares() -> Floats:
    """Return how often each age of 1..100 comes, about as in UTKFace: infants, a peak at 26, a thin tail."""
    age = np.arange(1, 101)
    infants = 6.5 * np.exp(-(age - 1) / 1.8) + 0.7
    young = 3.6 * np.exp(-(((age - 26) / 5) ** 2)) + 8.5 * (age == 26)
    grown = 2.6 * np.exp(-(((age - 34) / 11) ** 2)) + 0.9 * np.exp(-(((age - 54) / 11) ** 2))
    shares = (infants + young + grown) / (1 + np.exp((age - 88) / 4))
    normalised: Floats = shares / shares.sum()
    return normalised


def write_faces(folder: str | Path, count: int, *, size: int = schema.IMAGE_SIZE, seed: int = 0) -> list[Path]:
    """Write faces as JPEG files named the way UTKFace names its own.

    A file is a function of its index, the size and the seed: a larger count adds files and leaves the others as
    they were. Ages follow UTKFace roughly; genders are balanced and every race is in any ten files in a row.

    Args:
        folder: where to write; made if missing. A file of the same name is overwritten.
        count: how many faces, 1 or more.
        size: pixels a side, in [16, 1024].
        seed: 0 or more.

    Returns:
        The paths `[age]_[gender]_[race]_[yyyymmddHHMMSSmmm].jpg.chip.jpg`, in the order they were drawn.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        >>> paths = write_faces("faces", 3, size=64, seed=1)
        >>> [path.name.count("_") for path in paths]
        [3, 3, 3]
    """
    if count < 1:
        raise ValueError(f"`count` must be 1 or more. Received: count={count}")
    _check("size", size, MIN_SIZE, MAX_SIZE)
    _check("seed", seed, 0, MAX_SEED)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return [_write_face(folder, index, size, seed) for index in range(count)]


def _write_face(folder: Path, index: int, size: int, seed: int) -> Path:
    rng = np.random.default_rng([seed, index])
    age = int(rng.choice(np.arange(1, 101), p=_age_shares()))
    gender, race = (index + index // 10) % 2, RACE_CYCLE[index % 10]
    # A step of 97,531 ms is more than the 60,000 ms of scatter, so no two files share a time.
    shot = FIRST_SHOT + timedelta(milliseconds=97_531 * index + int(rng.integers(60_000)))
    path = folder / f"{age}_{gender}_{race}_{shot:%Y%m%d%H%M%S}{shot.microsecond // 1000:03d}.jpg.chip.jpg"
    face = draw_face(age, gender, race, seed=int(rng.integers(2**31)), size=size)
    Image.fromarray(face).save(path, "JPEG", quality=int(rng.integers(60, 96)))
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a folder of faces from the command line.

    Args:
        arguments: what follows the program's name; by default, what the shell gave.
    """
    parser = argparse.ArgumentParser(
        prog="python -m agegender.synthetic",
        description="Draw illustrated faces whose looks follow age, gender and race, named as UTKFace names its files.",
        epilog="Example: python -m agegender.synthetic --out=/tmp/faces --count=1500 --size=64",
    )
    parser.add_argument("--out", required=True, type=Path, help="folder to write to; made if missing")
    parser.add_argument("--count", type=int, default=100, help="how many faces, 1 or more (default: %(default)s)")
    parser.add_argument("--size", type=int, default=200, help="pixels a side, 16 to 1024 (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=0, help="the same seed writes the same bytes (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    try:
        paths = write_faces(options.out, options.count, size=options.size, seed=options.seed)
    except ValueError as error:
        parser.error(str(error))
    print(f"Wrote {len(paths)} faces to {options.out}")


if __name__ == "__main__":
    main()
