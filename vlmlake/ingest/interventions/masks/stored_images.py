"""Where the patches of stored images lie among the keys of attention rows: no model is needed to know it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from vlmlake.errors import UnknownNameError, VlmlakeError
from vlmlake.store_schema.run import Run


@dataclass(frozen=True)
class StoredImage:
    """places: [S], int64, of the image tokens on the axis `prefix_token`, row by row. grid: rows and columns, S in all.
    sha256: of the image's bytes.
    """

    places: np.ndarray
    grid: tuple[int, int]
    sha256: str


def example_places(run: Run, data: xr.Dataset, examples: Sequence[str]) -> np.ndarray:
    """[n], int64, where the examples lie on the axis `example`.

    Raises UnknownNameError if the run does not have one of them.
    """
    found: np.ndarray = data.indexes["example"].get_indexer(list(examples)).astype(np.int64)
    if (found < 0).any():
        missing = examples[int(np.argmax(found < 0))]
        raise UnknownNameError(f"run {run.name} has no example {missing}; lake.table('examples') lists them")
    return found


def stored_images(data: xr.Dataset, places: np.ndarray) -> list[StoredImage]:
    """The images of the examples at these places of the axis `example`, as many.

    Raises VlmlakeError naming the example whose image tokens form no grid.
    """
    prefixes = data.indexes["prefix"].get_indexer(data["prefix_of"].values[places])
    cells = data[["image_row", "image_column"]].compute()
    row, column = cells["image_row"].values, cells["image_column"].values
    digests, names = data["image_sha256"].values[places], data["example"].values[places]
    found: dict[int, tuple[np.ndarray, tuple[int, int]]] = {}
    for prefix, name in zip(prefixes.tolist(), names, strict=True):
        if prefix not in found:
            found[prefix] = _tokens(row[prefix].astype(np.int64), column[prefix].astype(np.int64), str(name))
    return [StoredImage(*found[prefix], str(digest)) for prefix, digest in zip(prefixes.tolist(), digests, strict=True)]


def _tokens(row: np.ndarray, column: np.ndarray, name: str) -> tuple[np.ndarray, tuple[int, int]]:
    grid = (int(row.max()) + 1, int(column.max()) + 1)
    tokens = np.flatnonzero((row >= 0) & (column >= 0))
    patch = row[tokens] * grid[1] + column[tokens]
    if not len(tokens) or not np.array_equal(np.sort(patch), np.arange(grid[0] * grid[1])):
        raise VlmlakeError(f"the {len(tokens)} image tokens of example {name} form no grid: the store is damaged")
    return tokens[np.argsort(patch)], grid
