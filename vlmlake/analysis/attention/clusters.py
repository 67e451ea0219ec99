"""How many clusters chosen patches form on the image's grid, for all maps of a block together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import ndimage

CORE_PATCHES = 3
"""DBSCAN's min_samples: a selected patch is core if its 3 x 3 neighbourhood, itself included, has as many."""


@dataclass(frozen=True)
class Grids:
    """Where the patches of each map lie on the grid of its image; images may differ in size.

    cells: [maps, W], int64, row * columns + column of each patch, rows * columns at places that hold no patch. rows,
    columns: of the largest grid, in which the others lie at the upper left.
    """

    cells: np.ndarray
    rows: int
    columns: int

    @classmethod
    def of(cls, row: np.ndarray, column: np.ndarray, patches: np.ndarray) -> Grids:
        """row, column: [maps, W], of each patch. patches: [maps, W], true where there is one."""
        rows = int(row[patches].max(initial=0)) + 1
        columns = int(column[patches].max(initial=0)) + 1
        cells = np.where(patches, row.astype(np.int64) * columns + column, rows * columns)
        return cls(cells, rows, columns)

    @cached_property
    def patches(self) -> np.ndarray:
        """[maps, W], true where a map has a patch."""
        there: np.ndarray = self.cells < self.rows * self.columns
        return there

    @cached_property
    def sizes(self) -> np.ndarray:
        """[maps], int, how many patches each map has."""
        sizes: np.ndarray = self.patches.sum(axis=1)
        return sizes

    @cached_property
    def _in_order(self) -> bool:
        """Whether every map has all cells of the grid, row by row, as it comes out of a model of fixed image size."""
        every = np.arange(self.rows * self.columns)
        return self.cells.shape[1] == len(every) and bool((self.cells == every).all())

    def some(self, maps: np.ndarray) -> Grids:
        """Those of these maps (places on the first axis), on a grid of the same size."""
        return Grids(self.cells[maps], self.rows, self.columns)

    def stack(self, chosen: np.ndarray) -> np.ndarray:
        """A choice of patches, [maps, W] bool, laid out as [maps, rows, columns]."""
        if self._in_order:
            return chosen.reshape(-1, self.rows, self.columns)
        grid = np.zeros((len(chosen), self.rows * self.columns + 1), bool)
        np.put_along_axis(grid, self.cells, chosen, axis=1)
        return grid[:, :-1].reshape(-1, self.rows, self.columns)


def dbscan_clusters(chosen: np.ndarray) -> np.ndarray:
    """Clusters that DBSCAN (Ester et al. 1996; eps 1.5, min_samples 3) finds among the chosen cells of each grid.

    Within 1.5 of a cell lie its eight neighbours, so clusters are the 8-connected components of core cells; border
    cells join one of them and noise joins none, which changes no count.

    chosen: [maps, rows, columns], bool. Returns [maps], int.
    """
    padded = np.pad(chosen, ((0, 0), (1, 1), (1, 1))).astype(np.uint8)
    beside = padded[:, :, :-2] + padded[:, :, 1:-1] + padded[:, :, 2:]
    around = beside[:, :-2] + beside[:, 1:-1] + beside[:, 2:]
    return components(chosen & (around >= CORE_PATCHES))


def components(chosen: np.ndarray) -> np.ndarray:
    """8-connected components among the chosen cells of each grid.

    All grids lie side by side on one long strip, an empty column between them, so that one pass labels them all.

    chosen: [maps, rows, columns], bool. Returns [maps], int.
    """
    maps, rows, columns = chosen.shape
    strip = np.zeros((rows, maps, columns + 1), bool)
    strip[:, :, :columns] = chosen.transpose(1, 0, 2)
    labels, found = ndimage.label(strip.reshape(rows, -1), structure=np.ones((3, 3)))
    labels = labels.ravel()
    there = np.flatnonzero(labels)
    owner = np.zeros(found + 1, np.int64)
    owner[labels[there]] = there % (maps * (columns + 1)) // (columns + 1)
    return np.bincount(owner[1:], minlength=maps)
