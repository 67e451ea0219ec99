"""Features standardised for many training parts at once: one shared matrix, and for each part the mean and scale of its
own rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vlmlake.errors import VlmlakeError

FEW = 7
"""For up to so many vectors a product with each of them, piece by piece, is faster than one of matrices, which copies
the large one.
"""
CACHED = 2**18
"""Numbers of the matrix in a piece: 1 MiB of float32, half of the second-level cache of a current core."""
FLAT = 1e-4
"""A variance below this share of that over all rows is computed again, exactly: it may be 0."""


@dataclass(frozen=True)
class Standardised:
    """Features that k training parts share.

    centred: [n, d], float32, the features less (about) their mean over all rows. mean, scale: [k, d], float32, of the
    centred features over the rows of each part; a feature that is constant there, or whose variance is below float32's
    smallest normal number, has scale 1, as in sklearn.preprocessing.StandardScaler.
    """

    centred: np.ndarray
    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray, training: np.ndarray) -> Standardised:
        """features: [n, d], of any float type. training: [k, n], bool, the rows of each part.

        Raises VlmlakeError if a feature is no number somewhere.
        """
        centred = _centred(features)
        parts = np.concatenate([training, np.ones((1, len(features)), bool)]).astype(np.float32)
        rows = parts.sum(axis=1, keepdims=True)
        mean = parts @ centred / rows
        variance = _square_sums(parts, centred) / rows - mean**2
        least = FLAT * variance[-1]
        for part, chosen in enumerate(training):
            flat = np.flatnonzero(variance[part] <= least)
            columns = centred[np.ix_(chosen, flat)].astype(np.float64)
            variance[part, flat] = np.where(np.ptp(columns, axis=0) > 0, columns.var(axis=0), 1)
        # A square that float32 rounds to 0, or to a few bits, is no scale.
        variance[variance < np.finfo(np.float32).tiny] = 1
        return cls(centred, mean[:-1], np.sqrt(variance[:-1]))

    def logits(self, weights: np.ndarray, intercepts: np.ndarray, parts: np.ndarray) -> np.ndarray:
        """[k, n], float32: every row of the matrix under the weights [k, d] of the standardised features of `parts`."""
        raw = weights / self.scale[parts]
        moved = np.einsum("kd,kd->k", raw, self.mean[parts])
        found = _rows_times(self.centred, raw)
        found += (intercepts - moved)[:, None]
        return found

    def gradients(self, residuals: np.ndarray, parts: np.ndarray) -> np.ndarray:
        """[k, d], float32: residuals [k, n] times the standardised features of `parts`."""
        total = residuals.sum(axis=1, keepdims=True)
        found = _times_rows(residuals, self.centred)
        found -= total * self.mean[parts]
        found /= self.scale[parts]
        return found


def _rows_times(matrix: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """[k, n]: matrix [n, d] times each of vectors [k, d]."""
    if len(vectors) > FEW:
        # In this order the product is faster by half than its transpose.
        return np.ascontiguousarray((matrix @ vectors.T).T)
    found = np.empty((len(vectors), len(matrix)), np.float32)
    for rows in _in_cache(matrix):
        for vector, line in zip(vectors, found, strict=True):
            np.dot(matrix[rows], vector, out=line[rows])
    return found


def _times_rows(vectors: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """[k, d]: vectors [k, n] times matrix [n, d]."""
    if len(vectors) > FEW:
        together: np.ndarray = vectors @ matrix
        return together
    found = np.zeros((len(vectors), matrix.shape[1]), np.float32)
    for rows in _in_cache(matrix):
        for vector, line in zip(vectors, found, strict=True):
            line += vector[rows] @ matrix[rows]
    return found


def _in_cache(matrix: np.ndarray) -> Iterator[slice]:
    """Rows of a matrix [n, d], piece by piece, of which each stays in a core's cache for several products."""
    rows = max(1, CACHED // max(1, matrix.shape[1]))
    return (slice(start, start + rows) for start in range(0, len(matrix), rows))


def _centred(features: np.ndarray) -> np.ndarray:
    features = np.asarray(features, np.float32)
    centre = np.full(len(features), 1 / len(features), np.float32) @ features
    if not np.isfinite(centre).all():
        raise VlmlakeError(f"{int((~np.isfinite(centre)).sum())} of {len(centre)} features are no number somewhere")
    # A constant feature must become exactly 0: its mean, rounded, would leave a constant behind.
    constant = np.flatnonzero(abs(features[0] - centre) <= 1e-3 * abs(centre))
    constant = constant[np.ptp(features[:, constant], axis=0) == 0]
    centre[constant] = features[0, constant]
    centred: np.ndarray = features - centre
    return centred


def _square_sums(masks: np.ndarray, centred: np.ndarray, columns: int = 256) -> np.ndarray:
    """masks [k, n] times the squares of the centred matrix [n, d], without a second matrix of its size."""
    pieces = [masks @ np.square(centred[:, start : start + columns]) for start in range(0, centred.shape[1], columns)]
    return np.concatenate(pieces, axis=1)
