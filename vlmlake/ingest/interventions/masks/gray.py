"""Image patches covered with gray, before the image processor sees the image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from vlmlake.errors import VlmlakeError

GRAY = 128
"""What every colour of a covered pixel becomes, in all families; the gray-image control has the same."""


def cover(
    image: Image.Image, region: tuple[float, float, float, float], grid: tuple[int, int], patches: Sequence[int]
) -> Image.Image:
    """A copy of an RGB image with some patches filled. A pixel belongs to the patch in which its centre lies.

    region: what the grid spans, as `Family.seen_region` has it; outside nothing changes. grid: rows and columns.
    patches: numbers, row * columns + column. Where the processor resizes, a little of a neighbour is mixed into a
    patch's edge, as it is without a cover.

    Raises VlmlakeError for an image that is not RGB, a patch that the grid does not have, or one without a pixel.
    """
    if image.mode != "RGB":
        raise VlmlakeError(f"patches of an image of mode {image.mode} cannot be covered: expected RGB")
    left, top, right, bottom = region
    row, column = _cells(image.height, top, bottom, grid[0]), _cells(image.width, left, right, grid[1])
    covered = np.zeros(grid, np.bool_)
    covered.reshape(-1)[_checked(patches, grid, row, column, image.size)] = True
    inside = np.ix_((row >= 0) & (row < grid[0]), (column >= 0) & (column < grid[1]))
    hidden = np.zeros((image.height, image.width), np.bool_)
    hidden[inside] = covered[row[inside[0]], column[inside[1]]]
    pixels = np.array(image)
    pixels[hidden] = GRAY
    return Image.fromarray(pixels)


def _cells(pixels: int, first: float, last: float, cells: int) -> np.ndarray:
    """Which of the cells between two edges each pixel's centre lies in, [pixels], int64; others are outside."""
    centres = np.arange(pixels) + 0.5
    cell: np.ndarray = np.floor((centres - first) * cells / (last - first)).astype(np.int64)
    return cell


def _checked(
    patches: Sequence[int], grid: tuple[int, int], row: np.ndarray, column: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """The patches, [n], int64."""
    rows, columns = grid
    chosen = np.asarray(patches, np.int64).reshape(-1)
    beyond = chosen[(chosen < 0) | (chosen >= rows * columns)]
    if len(beyond):
        raise VlmlakeError(f"an image of {rows} x {columns} patches has no patch {beyond[0]}")
    empty = chosen[~(np.isin(chosen // columns, row) & np.isin(chosen % columns, column))]
    if len(empty):
        raise VlmlakeError(
            f"patch {empty[0]} of {rows} x {columns} holds no pixel's centre: an image of {size[0]} x {size[1]} pixels "
            "is too small to be masked"
        )
    return chosen
