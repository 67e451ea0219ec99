"""Covered patches are gray where the model looks, and nothing else is."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.ingest.interventions.processed import cells, noise, patch_side
from vlmlake.errors import VlmlakeError
from vlmlake.ingest.interventions.masks.gray import GRAY, cover

ODD = ((97, 64), (64, 97), (131, 55), (101, 99), (37, 41))
REACH = 2
"""Pixels to either side, of the larger grain, that bicubic resampling mixes into one."""


def cover_of(family, image, patches):
    grid = family.image_inputs(image).grid
    return cover(image, family.seen_region(image.size), grid, patches)


def exact_size(family) -> tuple[int, int]:
    """An image that the processor does not resize, wider than high where the family takes such."""
    if family.grid_depends_on_size:
        side = patch_side(family)
        return 6 * side, 5 * side
    side = family.model.config.vision_config.image_size
    return side, side


def seen(family, image) -> np.ndarray:
    inputs = family.image_inputs(image)
    return cells(family, inputs.arguments, inputs.grid)


def blank(family, image) -> np.ndarray:
    inputs = family.blank_inputs(image.size)
    return cells(family, inputs.arguments, inputs.grid)


def test_of_an_image_that_is_not_resized_exactly_the_covered_patches_become_gray(family):
    image = noise(exact_size(family))
    before, gray = seen(family, image), blank(family, image)
    rows, columns = before.shape[:2]
    assert (before != gray).any(axis=(2, 3, 4)).all()
    for patches in [[number] for number in range(rows * columns)] + [[0, 3, columns, rows * columns - 1], []]:
        after = seen(family, cover_of(family, image, patches))
        covered = np.isin(np.arange(rows * columns), patches).reshape(rows, columns)
        np.testing.assert_array_equal(after[covered], gray[covered])
        np.testing.assert_array_equal(after[~covered], before[~covered])


@pytest.mark.parametrize("size", ODD, ids=str)
def test_of_any_image_a_patch_changes_its_neighbours_at_most_and_is_gray_at_its_heart(family, size):
    image = noise(size)
    before, gray = seen(family, image), blank(family, image)
    rows, columns = before.shape[:2]
    heart = slice(patch_side(family) // 2, patch_side(family) // 2 + 1)
    for number in range(rows * columns):
        row, column = divmod(number, columns)
        after = seen(family, cover_of(family, image, [number]))
        changed = np.argwhere((after != before).any(axis=(2, 3, 4)))
        assert np.abs(changed - (row, column)).max() <= 1
        assert (after[row, column] != before[row, column]).mean() > 0.9
        np.testing.assert_array_equal(after[row, column][:, heart, heart], gray[row, column][:, heart, heart])


@pytest.mark.parametrize("size", ODD, ids=str)
def test_all_patches_together_are_the_blank_image(family, size):
    """At the sides of a crop resampling mixes in what lies beyond."""
    image = noise(size)
    gray = blank(family, image)
    rows, columns = gray.shape[:2]
    after = seen(family, cover_of(family, image, range(rows * columns)))
    left, top, right, bottom = family.seen_region(size)
    side = patch_side(family)
    grain = max(1.0, columns * side / (right - left))
    reach = int(np.ceil((REACH + 0.5) * grain))
    far = [
        slice(reach * (first > 0), cells * side - reach * (last < length))
        for first, last, cells, length in ((top, bottom, rows, size[1]), (left, right, columns, size[0]))
    ]
    whole, wanted = (part.transpose(2, 0, 3, 1, 4).reshape(3, rows * side, columns * side) for part in (after, gray))
    np.testing.assert_array_equal(whole[:, far[0], far[1]], wanted[:, far[0], far[1]])
    if (left, top, right, bottom) == (0, 0, *size):
        np.testing.assert_array_equal(whole, wanted)
    else:
        assert family.model_type == "llava"


def test_a_pixel_belongs_to_the_patch_in_which_its_centre_lies():
    image = noise((7, 4))
    after = np.asarray(cover(image, (1.0, 0.0, 6.0, 4.0), (1, 2), [1]))
    expected = np.asarray(image).copy()
    expected[:, 3:6] = GRAY  # the edge between the patches, at 3.5, is the centre of column 3
    np.testing.assert_array_equal(after, expected)


def test_outside_the_region_nothing_changes():
    image = noise((20, 12))
    after = np.asarray(cover(image, (4.6, 0.0, 15.4, 10.0), (2, 3), range(6)))
    hidden = np.zeros((12, 20), bool)
    hidden[:10, 5:15] = True
    assert (after[hidden] == GRAY).all()
    np.testing.assert_array_equal(after[~hidden], np.asarray(image)[~hidden])


def test_the_image_given_stays_as_it_is():
    image = noise((8, 8))
    before = np.asarray(image).copy()
    cover(image, (0, 0, 8, 8), (2, 2), [0, 1, 2, 3])
    np.testing.assert_array_equal(np.asarray(image), before)


@pytest.mark.parametrize(
    ("image", "patches", "told"),
    [
        (noise((8, 8)), [16], "an image of 4 x 4 patches has no patch 16"),
        (noise((8, 8)), [2, -1], "an image of 4 x 4 patches has no patch -1"),
        (noise((8, 3)), range(16), "of 4 x 4 holds no pixel's centre: an image of 8 x 3 pixels is too small"),
        (Image.new("L", (8, 8)), [0], "an image of mode L cannot be covered: expected RGB"),
    ],
)
def test_what_cannot_be_covered_is_refused(image, patches, told):
    with pytest.raises(VlmlakeError, match=told):
        cover(image, (0.0, 0.0, float(image.width), float(image.height)), (4, 4), patches)
