import itertools

import numpy as np
import pytest
from PIL import Image

from agegender.inference import drawing
from agegender.inference.drawing import describe_face, draw_faces
from agegender.inference.results import Face

Box = tuple[int, int, int, int]


def overlaps(one: Box, other: Box) -> int:
    """Pixels that two boxes share."""
    width, height = (min(one[axis + 2], other[axis + 2]) - max(one[axis], other[axis]) for axis in (0, 1))
    return max(0, width) * max(0, height)


def place_all(boxes: list[Box], label: tuple[int, int], size: tuple[int, int]) -> list[Box]:
    taken = list(boxes)
    for box in boxes:
        taken.append(drawing._place_label(box, label, size, taken))
    return taken[len(boxes) :]


def test_sixty_labels_do_not_overlap() -> None:
    boxes = [(x, y, x + 50, y + 60) for x in range(20, 1_250, 125) for y in range(20, 700, 115)]
    assert len(boxes) == 60
    labels = place_all(boxes, (70, 30), (1280, 720))
    for one, other in itertools.combinations([*boxes, *labels], 2):
        assert overlaps(one, other) == 0
    assert all(left >= 0 and top >= 0 and right <= 1280 and bottom <= 720 for left, top, right, bottom in labels)


def test_labels_of_a_dense_crowd_move_to_the_free_half() -> None:
    boxes = [(x, y, x + 60, y + 60) for y in range(0, 260, 64) for x in range(0, 1_200, 64)]
    labels = place_all(boxes, (70, 30), (1280, 720))
    for one, other in itertools.product(labels, boxes):
        assert overlaps(one, other) == 0
    for one, other in itertools.combinations(labels, 2):
        assert overlaps(one, other) == 0


@pytest.mark.parametrize(("box", "expected"), [
    ((50, 50, 90, 90), (50, 29, 80, 49)),  # above
    ((50, 5, 90, 40), (50, 41, 80, 61)),  # does not fit above: below
    ((50, 5, 90, 95), (91, 5, 121, 25)),  # nor below: to the right
    ((120, 5, 149, 95), (89, 5, 119, 25)),  # nor there: to the left
    ((0, 0, 150, 100), (0, 0, 30, 20)),  # nowhere: on top of it
])  # fmt: skip
def test_a_label_lies_beside_its_box_where_there_is_room(box: Box, expected: Box) -> None:
    assert drawing._place_label(box, (30, 20), (150, 100), [box]) == expected


def test_a_label_far_from_its_box_has_a_line() -> None:
    grey = Image.new("RGB", (200, 120), (90, 90, 90))
    # Neighbours on all sides leave only the right part of the image.
    faces = [Face((x, y, x + 30, y + 30), age=30.0, p_female=0.9) for x in (5, 40, 75) for y in (5, 40, 75)]
    drawn = np.asarray(draw_faces(grey, faces))
    assert drawn.shape == (120, 200, 3) and np.any(drawn[:, 110:] != 90)
    assert not np.any(np.asarray(grey) != 90)


@pytest.mark.parametrize(
    ("p_female", "note", "colour"),
    [
        (0.9, None, (204, 121, 167)),
        (0.1, None, (86, 180, 233)),
        (None, None, (240, 228, 66)),
        (0.9, "small", (187, 187, 187)),
    ],
)
def test_box_and_label_have_the_colour_of_the_answer(
    p_female: float | None, note: str | None, colour: tuple[int, int, int]
) -> None:
    face = Face((20, 60, 100, 130), age=30.0, p_female=p_female, note=note)
    drawn = np.asarray(draw_faces(Image.new("RGB", (200, 160)), [face]))
    rows, columns = np.nonzero((drawn == colour).all(axis=2))
    is_box = rows >= 60  # the label is above
    assert (columns[is_box].min(), columns[is_box].max(), rows.max()) == (20, 99, 129)
    np.testing.assert_array_equal((drawn[62:128, 20:100] == colour).all(axis=(0, 2)), [*[1, 1], *[0] * 76, *[1, 1]])
    assert rows[~is_box].max() == 59 and columns[~is_box].min() == 20 and (drawn[:60, 20:] == 0).any()  # letters


def test_description_of_a_face() -> None:
    assert describe_face(Face((0, 0, 9, 9), 31.6, 0.2, (22.4, 41.5))) == "32 (22-42) male 80 %"
    assert describe_face(Face((0, 0, 9, 9), None, 0.5)) == "female 50 %"
    assert describe_face(Face((0, 0, 9, 9), 7.2, None)) == "7"
