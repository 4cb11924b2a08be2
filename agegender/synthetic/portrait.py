"""One drawn face: a person imagined from age, gender and race, drawn part by part, lit, and photographed."""

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


def draw(age: int, gender: int, race: int, seed: int, size: int) -> NDArray[np.uint8]:
    """Draw one face, as `synthetic.draw_face` says."""
    rng = np.random.default_rng([seed, age, gender, race])
    who = _imagine(rng, age, gender, race)
    light, pen = rng.normal(0, (0.13, 0.07)), Pen(rng, size)
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


def _draw_behind(pen: Pen, who: _Person) -> None:
    end = who.eye_y + 10 + 200 * max(0.0, who.hair_length - 0.3)
    side = who.width + 7 + 14 * who.hair_length
    pen.fill(mirror((0, -40), (side - 6, -10), (side, 40), (side, end - 8), (side - 12, end)), who.hair)
    neck, collar = 44 + 7 * who.masculine - 4 * who.youth, 186 + 8 * who.youth
    pen.fill(mirror((neck, 140), (neck, 180), (neck + 6, 240)), who.skin * 0.8)
    pen.fill(mirror((0, 206), (neck + 2, collar), (140, 212), (140, 290)), who.rng.uniform(40, 200, 3))


def _draw_head(pen: Pen, who: _Person) -> None:
    width, jaw, mouth_y = who.width, who.jaw, who.mouth_y
    for side in (-width - 3, width + 3):
        pen.oval(side, who.eye_y + 20, (7, 15 + 4 * who.old), who.skin * 0.9)
    upper = (0, -38), (width * 0.7, -22), (width, who.eye_y - 12), (width * 0.965, who.nose_y)
    lower = (jaw + 7, mouth_y + 2), (jaw - 15, mouth_y + 30 - 7 * who.youth), (24 + 4 * who.masculine, who.chin_y - 4)
    pen.fill(mirror(*upper, *lower, (0, who.chin_y)), who.skin)
    rosy = np.array([0.3, -1, -0.8]) * (0.02 + 0.1 * who.youth - 0.02 * who.masculine) + 0.04
    for side in (-1, 1):
        pen.glow(side * 48, who.nose_y + 6, (24, 18), rosy)
        pen.glow(side * (jaw - 14), mouth_y + 22, (14, 9), -0.08 * who.folds)
    for _ in range(who.rng.poisson(12 * max(0.0, who.folds - 0.5))):  # age spots
        x, y = who.rng.uniform((-70, 20), (70, mouth_y + 15))
        pen.oval(x, y, who.rng.uniform(1.2, 3, 2), who.skin * (0.84, 0.78, 0.74))


def _draw_beard(pen: Pen, who: _Person) -> None:
    density = who.rng.uniform(0.08, 0.85)
    if who.bearded:
        jaw, y = who.jaw, who.mouth_y
        inner = (0, y - 12), (30, y - 10), (42, y + 2), (jaw - 8, y - 8)
        outer = (jaw + 9, y - 22), (jaw + 5, y + 4), (jaw - 14, y + 31), (24, who.chin_y - 3), (0, who.chin_y + 1)
        pen.fill(mirror(*inner, *outer), _mix(who.skin * 0.95, who.hair, density))


def _draw_eyes(pen: Pen, who: _Person) -> None:
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


def _draw_brow(pen: Pen, who: _Person, side: int) -> None:
    thick = 3.2 + 1.5 * who.masculine * (1 - who.youth) - 0.8 * who.youth
    y, arch = who.eye_y - 18 - 2 * who.youth + 1.5 * who.masculine, 3.4 - 1.2 * who.masculine
    top = [(22, y - 1), (33, y - arch * 0.6 - thick / 2), (48, y - arch - thick / 2), (60, y + 4 + 2 * who.old)]
    low = [(48, y - arch + thick), (33, y - arch * 0.6 + thick), (22, y - 1 + 1.3 * thick)]
    colour = _mix(_mix(who.hair, INK, 0.25), who.skin, 0.15 + 0.4 * who.youth)
    pen.fill(np.array([*top, *low]) * (side, 1), colour)


def _draw_eye_folds(pen: Pen, who: _Person, side: int, wide: float, high: float) -> None:
    x, y, low = side * 38.5, who.eye_y, who.eye_y + high
    bag = [(x - side * 14, low + 4), (x, low + 7 + 3 * who.folds), (x + side * 13, low + 4)]
    pen.crease(bag, 0.05 + 0.3 * who.folds)
    for lift in (-5, 1, 7):  # crow's feet
        start, end = (x + side * (wide + 5), y + 2 + lift * 0.4), (x + side * (wide + 19), y + 2 + lift * 1.6)
        pen.crease([start, end], 0.4 * (who.folds - 0.15), 2.2)


def _draw_nose(pen: Pen, who: _Person, dark_side: float) -> None:
    y, half = (
        who.nose_y,
        (11 - 2.5 * who.youth + 1.5 * who.old + who.masculine) * (0.95, 1.25, 1.08, 1.05, 1.05)[who.race],
    )
    bridge = [(dark_side * 8, who.eye_y - 4), (dark_side * 7, y - 18), (dark_side * half, y - 3)]
    pen.crease(bridge, 0.2 - 0.1 * who.youth, 5)
    pen.glow(0, y - 6, (half * 0.6, 7), 0.08)
    pen.line(mirror((half, y - 4), (half * 0.9, y + 2), (4, y + 3.5)), who.skin * 0.74, 1.8)
    for side in (-1, 1):
        pen.oval(side * half * 0.48, y + 2, (3.2, 1.7), who.skin * 0.45)
        fold = [(side * (half + 4), y - 3), (side * 30, y + 14), (side * 39, who.mouth_y + 2 + 5 * who.old)]
        pen.crease(fold, min(0.5, 0.03 + 0.48 * who.folds), 3.4)


def _draw_mouth(pen: Pen, who: _Person) -> None:
    smile, y = who.rng.normal(0.35, 0.4), who.mouth_y
    half, corner = 33 - 6 * who.youth + 3 * smile, y - 5 * smile + 2 * who.old
    gap = 5.5 if who.rng.random() < 0.35 and smile > 0 else 0.0
    full = (1 - 0.5 * who.old) * (1 - 0.18 * who.masculine) * (1 - 0.2 * who.youth)
    lipstick = (who.rng.normal(0.1, 0.2) - 0.4 * who.masculine) * (1 - who.youth) ** 2
    lips = _mix(_mix(who.skin * 0.9, (190, 92, 92), 0.42), (184, 40, 58), min(lipstick, 0.9))
    top = mirror((0, y - 4.8 * full), (10, y - 6.5 * full), (half, corner))
    pen.fill(mirror(*map(tuple, top[:3]), (half * 0.55, y + gap + 7 * full), (0, y + gap + 9.5 * full)), lips)
    teeth = mirror((0, y + 0.5), (half - 3, corner), (half * 0.5, y + gap), (0, y + gap + 1.5))
    pen.fill(teeth, (244, 240, 232) if gap else lips * 0.6)
    pen.glow(0, y + gap + 9.5 * full + 5, (15, 4), -0.1)
    for side in (-1, 1):
        pen.crease([(side * (half + 2), corner + 3), (side * (half + 4), y + 20)], 0.4 * (who.folds - 0.3))


def _draw_forehead(pen: Pen, who: _Person) -> None:
    for y in who.eye_y - who.rng.normal((31, 39.5, 48), 1):
        pen.crease([(-38, y + 2), (0, y + who.rng.normal(0, 2)), (38, y + 2)], 0.42 * (who.folds - 0.1), 2.6)
    for side in (-1, 1):
        pen.crease([(side * 6, who.eye_y - 22), (side * 5, who.eye_y - 9)], 0.4 * (who.folds - 0.2), 2.4)


def _draw_hair(pen: Pen, who: _Person) -> None:
    fringe = who.rng.random() < 0.18 + 0.2 * who.youth - 0.1 * who.masculine - 0.1 * who.old
    recede = max(0.0, (who.old - 0.1) * who.rng.uniform(-0.3, 1.9) * (0.25 + 0.75 * (who.masculine > 0)))
    parting, line = who.rng.uniform(-30, 30), 14 + 6 * who.youth + who.rng.normal(0, 4) - 46 * recede
    hairline, width = who.eye_y - 28 if fringe else line, who.width
    temple = width * (0.68 + 0.12 * min(1, recede)), hairline + 18 - 26 * recede
    side = mirror((0, -60), (width + 12, -10), (width + 9, who.eye_y - 16 + 30 * who.hair_length), temple)
    if recede < 0.95:
        pen.cover(np.insert(side, 4, (parting, hairline), axis=0), who.hair)
        for x in who.rng.uniform(-70, 70, 6):
            strand = [(parting, -12), ((parting + x) * 0.55, -4), (x, hairline - 12 * recede)]
            pen.line(strand, who.hair * who.rng.uniform(0.75, 1.2), 1.6)


def _draw_things(pen: Pen, who: _Person) -> None:
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
        pen.cover(mirror((0, -60), (130, -40), (110, 18), (0, 10)), colour * 1.5)


def _light_up(image: Pixels, rng: np.random.Generator, light: Floats) -> Pixels:
    """Round the face, light it from one side, and tint it as a lamp or the sky would."""
    x = np.linspace(-1, 1, len(image), dtype=np.float32)
    y = x[:, None]
    lit = 0.72 + 0.22 * np.sqrt(np.maximum(0, 1.25 - x * x - 0.8 * y * y)) + light[0] * x + light[1] * y
    tint = rng.normal(1, 0.08) * rng.normal(1, 0.02, 3)
    return np.multiply(image * lit.astype(np.float32)[:, :, None], tint, dtype=np.float32)


def _photograph(image: Pixels, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Blur, add grain, and round to bytes."""
    blur, grain = max(0.0, rng.normal(0.1, 0.6)), rng.uniform(0.5, 4.0)
    noise = rng.standard_normal(image.shape[:2], np.float32)[:, :, None] * np.float32(grain)
    photo = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
    if blur > 0.2:
        photo = photo.filter(ImageFilter.GaussianBlur(blur * len(image) / UNIT))
    return np.clip(np.asarray(photo, np.float32) + noise, 0, 255).astype(np.uint8)
