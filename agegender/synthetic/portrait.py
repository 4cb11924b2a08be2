"""Renders one face: samples a person of an age, gender and race, draws it part by part, lights it, adds noise."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageFilter

from agegender.synthetic.canvas import CIRCLE, UNIT, Floats, Pen, Pixels, mirror

SKINS: Final = np.array([(236, 198, 174), (124, 84, 64), (233, 199, 160), (178, 130, 98), (208, 164, 132)], np.float64)
DARK_HAIR: Final = np.array([(38, 28, 24), (62, 42, 30), (22, 20, 22)], np.float64)
LIGHT_HAIR: Final = np.array([(96, 62, 38), (140, 96, 54), (206, 168, 104), (150, 74, 40)], np.float64)
IRISES: Final = np.array([(66, 42, 28), (92, 60, 36), (84, 124, 160), (92, 122, 84)], np.float64)
GREY: Final = np.array([206, 206, 204], np.float64)
INK: Final = np.array([36, 26, 26], np.float64)


def render_face(age: int, gender: int, race: int, seed: int, size: int) -> NDArray[np.uint8]:
    """Renders one face; arguments as for `draw_face`."""
    rng = np.random.default_rng([seed, age, gender, race])
    person = _sample_person(rng, age, gender, race)
    light, pen = rng.normal(0, (0.13, 0.07)), Pen(rng, size)
    _draw_behind(pen, person)
    _draw_head(pen, person)
    _draw_beard(pen, person)
    _draw_eyes(pen, person)
    _draw_nose(pen, person, -np.sign(light[0]))
    _draw_mouth(pen, person)
    _draw_forehead(pen, person)
    _draw_hair(pen, person)
    _draw_accessories(pen, person)
    return _add_blur_and_noise(_apply_lighting(pen.finish(), rng, light), rng)


@dataclass(frozen=True)
class _Person:
    """Properties of a face: fractions in about [0, 1], colours in 0..255, lengths in pixels of a 200 pixel image."""

    rng: np.random.Generator  # for properties of single parts
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


def _blend(first: Floats, second: ArrayLike, share: float) -> Floats:
    return first + (np.asarray(second) - first) * min(1.0, max(0.0, share))


def _sample_hair_colour(rng: np.random.Generator, race: int, seen_age: float) -> Floats:
    choices = LIGHT_HAIR if rng.random() < (0.75, 0.02, 0.03, 0.02, 0.2)[race] else DARK_HAIR
    colour = choices[rng.integers(len(choices))] * rng.uniform(0.8, 1.2)
    return _blend(colour, GREY, 1 / (1 + np.exp((rng.normal(57, 7) - seen_age) / 6)))


def _sample_person(rng: np.random.Generator, age: int, gender: int, race: int) -> _Person:
    """Samples a person. The labels act through a noisy `seen_age` and `masculine`, so that no model is perfect."""
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
        hair=_sample_hair_colour(rng, race, seen_age),
        hair_length=float(np.clip(0.42 - 0.5 * masculine + rng.normal(0, 0.16), 0, 1)) * (1 - 0.6 * youth),
        race=race,
        eye_y=eye_y,
        nose_y=eye_y + (mouth_y - eye_y) * (0.56 + 0.02 * old),
        mouth_y=mouth_y,
        chin_y=186 - 13 * youth + 2 * masculine + rng.normal(0, 2),
        width=83 + 4 * youth - 2 * old + rng.normal(0, 2),
        jaw=61 + 3.5 * masculine + 8 * youth + 5 * old + rng.normal(0, 2.5),
    )


def _draw_behind(pen: Pen, person: _Person) -> None:
    end = person.eye_y + 10 + 200 * max(0.0, person.hair_length - 0.3)
    side = person.width + 7 + 14 * person.hair_length
    pen.fill(mirror((0, -40), (side - 6, -10), (side, 40), (side, end - 8), (side - 12, end)), person.hair)
    neck, collar = 44 + 7 * person.masculine - 4 * person.youth, 186 + 8 * person.youth
    pen.fill(mirror((neck, 140), (neck, 180), (neck + 6, 240)), person.skin * 0.8)
    pen.fill(mirror((0, 206), (neck + 2, collar), (140, 212), (140, 290)), person.rng.uniform(40, 200, 3))


def _draw_head(pen: Pen, person: _Person) -> None:
    width, jaw, mouth_y = person.width, person.jaw, person.mouth_y
    for side in (-width - 3, width + 3):
        pen.oval(side, person.eye_y + 20, (7, 15 + 4 * person.old), person.skin * 0.9)
    upper = (0, -38), (width * 0.7, -22), (width, person.eye_y - 12), (width * 0.965, person.nose_y)
    lower = (
        (jaw + 7, mouth_y + 2),
        (jaw - 15, mouth_y + 30 - 7 * person.youth),
        (24 + 4 * person.masculine, person.chin_y - 4),
    )
    pen.fill(mirror(*upper, *lower, (0, person.chin_y)), person.skin)
    rosy = np.array([0.3, -1, -0.8]) * (0.02 + 0.1 * person.youth - 0.02 * person.masculine) + 0.04
    for side in (-1, 1):
        pen.glow(side * 48, person.nose_y + 6, (24, 18), rosy)
        pen.glow(side * (jaw - 14), mouth_y + 22, (14, 9), -0.08 * person.folds)
    for _ in range(person.rng.poisson(12 * max(0.0, person.folds - 0.5))):  # age spots
        x, y = person.rng.uniform((-70, 20), (70, mouth_y + 15))
        pen.oval(x, y, person.rng.uniform(1.2, 3, 2), person.skin * (0.84, 0.78, 0.74))


def _draw_beard(pen: Pen, person: _Person) -> None:
    density = person.rng.uniform(0.08, 0.85)
    if person.bearded:
        jaw, y = person.jaw, person.mouth_y
        inner = (0, y - 12), (30, y - 10), (42, y + 2), (jaw - 8, y - 8)
        outer = (jaw + 9, y - 22), (jaw + 5, y + 4), (jaw - 14, y + 31), (24, person.chin_y - 3), (0, person.chin_y + 1)
        pen.fill(mirror(*inner, *outer), _blend(person.skin * 0.95, person.hair, density))


def _draw_eyes(pen: Pen, person: _Person) -> None:
    wide = 14.5 + 4 * person.youth
    high = (
        (6.6 + 4.6 * person.youth)
        * (0.88, 1, 0.74, 1, 0.9)[person.race]
        * (1 - 0.28 * person.old)
        * person.rng.normal(1, 0.08)
    )
    tilt = person.rng.normal((0, 0, -1.8, 0, -0.5)[person.race], 0.8) + 1.2 * person.old
    colour = IRISES[person.rng.integers(4 if person.race in (0, 4) else 2)]
    radius, rim = min(6.3 + 2.6 * person.youth, high + 1.4), 2.6 - person.masculine * (1 - person.youth)
    for side in (-1, 1):
        x, y = side * 38.5, person.eye_y
        inner, outer = (x - side * wide, y + 1.5), (x + side * wide, y + tilt)
        upper = [inner, (x - side * 5, y - high), (x + side * 6, y - high * 0.95), outer]
        pen.glow(x, y - high - 4, (wide + 3, 6), -0.07)
        pen.fill([*upper, (x + side * 5, y + high * 0.8), (x - side * 6, y + high * 0.8)], (240, 236, 230))
        pen.oval(x, y - 0.3, radius, colour)
        pen.oval(x, y - 0.3, radius * 0.48, INK)
        pen.oval(x - 2, y - 2.4, 1.5, (255, 255, 255))
        pen.line(upper, _blend(person.skin, INK, 0.9), rim)
        _draw_brow(pen, person, side)
        _draw_eye_folds(pen, person, side, wide, high)


def _draw_brow(pen: Pen, person: _Person, side: int) -> None:
    thick = 3.2 + 1.5 * person.masculine * (1 - person.youth) - 0.8 * person.youth
    y, arch = person.eye_y - 18 - 2 * person.youth + 1.5 * person.masculine, 3.4 - 1.2 * person.masculine
    top = [(22, y - 1), (33, y - arch * 0.6 - thick / 2), (48, y - arch - thick / 2), (60, y + 4 + 2 * person.old)]
    low = [(48, y - arch + thick), (33, y - arch * 0.6 + thick), (22, y - 1 + 1.3 * thick)]
    colour = _blend(_blend(person.hair, INK, 0.25), person.skin, 0.15 + 0.4 * person.youth)
    pen.fill(np.array([*top, *low]) * (side, 1), colour)


def _draw_eye_folds(pen: Pen, person: _Person, side: int, wide: float, high: float) -> None:
    x, y, low = side * 38.5, person.eye_y, person.eye_y + high
    bag = [(x - side * 14, low + 4), (x, low + 7 + 3 * person.folds), (x + side * 13, low + 4)]
    pen.crease(bag, 0.05 + 0.3 * person.folds)
    for lift in (-5, 1, 7):  # crow's feet
        start, end = (x + side * (wide + 5), y + 2 + lift * 0.4), (x + side * (wide + 19), y + 2 + lift * 1.6)
        pen.crease([start, end], 0.4 * (person.folds - 0.15), 2.2)


def _draw_nose(pen: Pen, person: _Person, dark_side: float) -> None:
    y, half = (
        person.nose_y,
        (11 - 2.5 * person.youth + 1.5 * person.old + person.masculine) * (0.95, 1.25, 1.08, 1.05, 1.05)[person.race],
    )
    bridge = [(dark_side * 8, person.eye_y - 4), (dark_side * 7, y - 18), (dark_side * half, y - 3)]
    pen.crease(bridge, 0.2 - 0.1 * person.youth, 5)
    pen.glow(0, y - 6, (half * 0.6, 7), 0.08)
    pen.line(mirror((half, y - 4), (half * 0.9, y + 2), (4, y + 3.5)), person.skin * 0.74, 1.8)
    for side in (-1, 1):
        pen.oval(side * half * 0.48, y + 2, (3.2, 1.7), person.skin * 0.45)
        fold = [(side * (half + 4), y - 3), (side * 30, y + 14), (side * 39, person.mouth_y + 2 + 5 * person.old)]
        pen.crease(fold, min(0.5, 0.03 + 0.48 * person.folds), 3.4)


def _draw_mouth(pen: Pen, person: _Person) -> None:
    smile, y = person.rng.normal(0.35, 0.4), person.mouth_y
    half, corner = 33 - 6 * person.youth + 3 * smile, y - 5 * smile + 2 * person.old
    gap = 5.5 if person.rng.random() < 0.35 and smile > 0 else 0.0
    full = (1 - 0.5 * person.old) * (1 - 0.18 * person.masculine) * (1 - 0.2 * person.youth)
    lipstick = (person.rng.normal(0.1, 0.2) - 0.4 * person.masculine) * (1 - person.youth) ** 2
    lips = _blend(_blend(person.skin * 0.9, (190, 92, 92), 0.42), (184, 40, 58), min(lipstick, 0.9))
    top = mirror((0, y - 4.8 * full), (10, y - 6.5 * full), (half, corner))
    pen.fill(mirror(*map(tuple, top[:3]), (half * 0.55, y + gap + 7 * full), (0, y + gap + 9.5 * full)), lips)
    teeth = mirror((0, y + 0.5), (half - 3, corner), (half * 0.5, y + gap), (0, y + gap + 1.5))
    pen.fill(teeth, (244, 240, 232) if gap else lips * 0.6)
    pen.glow(0, y + gap + 9.5 * full + 5, (15, 4), -0.1)
    for side in (-1, 1):
        pen.crease([(side * (half + 2), corner + 3), (side * (half + 4), y + 20)], 0.4 * (person.folds - 0.3))


def _draw_forehead(pen: Pen, person: _Person) -> None:
    for y in person.eye_y - person.rng.normal((31, 39.5, 48), 1):
        pen.crease([(-38, y + 2), (0, y + person.rng.normal(0, 2)), (38, y + 2)], 0.42 * (person.folds - 0.1), 2.6)
    for side in (-1, 1):
        pen.crease([(side * 6, person.eye_y - 22), (side * 5, person.eye_y - 9)], 0.4 * (person.folds - 0.2), 2.4)


def _draw_hair(pen: Pen, person: _Person) -> None:
    fringe = person.rng.random() < 0.18 + 0.2 * person.youth - 0.1 * person.masculine - 0.1 * person.old
    recede = max(0.0, (person.old - 0.1) * person.rng.uniform(-0.3, 1.9) * (0.25 + 0.75 * (person.masculine > 0)))
    parting, line = person.rng.uniform(-30, 30), 14 + 6 * person.youth + person.rng.normal(0, 4) - 46 * recede
    hairline, width = person.eye_y - 28 if fringe else line, person.width
    temple = width * (0.68 + 0.12 * min(1, recede)), hairline + 18 - 26 * recede
    side = mirror((0, -60), (width + 12, -10), (width + 9, person.eye_y - 16 + 30 * person.hair_length), temple)
    if recede < 0.95:
        pen.cover(np.insert(side, 4, (parting, hairline), axis=0), person.hair)
        for x in person.rng.uniform(-70, 70, 6):
            strand = [(parting, -12), ((parting + x) * 0.55, -4), (x, hairline - 12 * recede)]
            pen.line(strand, person.hair * person.rng.uniform(0.75, 1.2), 1.6)


def _draw_accessories(pen: Pen, person: _Person) -> None:
    """Draws glasses, a hat or something in front of the face at random: a model should ignore them."""
    colour, y = person.rng.uniform(15, 110, 3), person.eye_y
    if person.rng.random() < 0.02 + 0.1 * (1 - person.youth) + 0.15 * person.old:
        for side in (-1, 1):
            pen.line((CIRCLE * (25, 18))[[*range(len(CIRCLE)), 0]] + (side * 38.5, y + 3), colour, 2.6)
            pen.line([(side * 63, y - 1), (side * 92, y - 6)], colour, 2.6)
        pen.line([(-14, y), (0, y - 3), (14, y)], colour, 2.6)
    if person.rng.random() < 0.05:
        pen.oval(person.rng.choice([-70, 70]), person.rng.uniform(140, 200), person.rng.uniform(18, 34, 2), colour * 2)
    if person.rng.random() < 0.03:
        pen.cover(mirror((0, -60), (130, -40), (110, 18), (0, 10)), colour * 1.5)


def _apply_lighting(image: Pixels, rng: np.random.Generator, light: Floats) -> Pixels:
    """Shades the face as a rounded surface lit from one side, and tints it."""
    x = np.linspace(-1, 1, len(image), dtype=np.float32)
    y = x[:, None]
    lit = 0.72 + 0.22 * np.sqrt(np.maximum(0, 1.25 - x * x - 0.8 * y * y)) + light[0] * x + light[1] * y
    tint = rng.normal(1, 0.08) * rng.normal(1, 0.02, 3)
    return np.multiply(image * lit.astype(np.float32)[:, :, None], tint, dtype=np.float32)


def _add_blur_and_noise(image: Pixels, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Blurs, adds grain and rounds to uint8."""
    blur, grain = max(0.0, rng.normal(0.1, 0.6)), rng.uniform(0.5, 4.0)
    noise = rng.standard_normal(image.shape[:2], np.float32)[:, :, None] * np.float32(grain)
    photo = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
    if blur > 0.2:
        photo = photo.filter(ImageFilter.GaussianBlur(blur * len(image) / UNIT))
    return np.clip(np.asarray(photo, np.float32) + noise, 0, 255).astype(np.uint8)
