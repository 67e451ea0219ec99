"""The leading directions of a feature matrix: what lets a solver take correlated features as quickly as independent
ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

DIRECTIONS = 96
STEEP = 30
"""Features are worth a spectrum where their largest eigenvalue is this many times the mean one; independent features
of as many examples stay below 5.
"""


@dataclass(frozen=True)
class Spectrum:
    """Leading right singular directions of standardised features.

    directions: [r, d], float32, orthonormal rows. eigenvalues: [r], float32, of the features' Gram matrix, descending.
    """

    directions: np.ndarray
    eigenvalues: np.ndarray

    def solve(self, gradients: np.ndarray, curvature: np.ndarray) -> np.ndarray:
        """Approximately (1 + curvature X'X)^-1 applied to every row of gradients [k, d]; curvature: [k].

        Outside the leading directions the last eigenvalue stands for all others (the Nystrom preconditioner, Frangella,
        Tropp and Udell 2023, section 2.3).
        """
        inverse = 1 / (1 + curvature[:, None].astype(np.float32) * self.eigenvalues)
        rest = inverse[:, -1:]
        solved: np.ndarray = gradients * rest
        solved += ((gradients @ self.directions.T) * (inverse - rest)) @ self.directions
        return solved


def spectrum(centred: np.ndarray, scale: np.ndarray, directions: int = DIRECTIONS) -> Spectrum:
    """By a seeded randomised range finder with a power iteration (Halko, Martinsson and Tropp 2011, algorithm 4.4).

    centred: [n, d], float32; scale: [d], what its columns are divided by. The directions need not be exact: a solver
    that uses them is only faster or slower.
    """
    n, d = centred.shape
    kept = min(directions, n, d)
    sketch = (np.random.default_rng(0).standard_normal((kept, n), dtype=np.float32) @ centred) / scale
    sketch = ((centred @ (_orthonormal(sketch) / scale).T).T @ centred) / scale
    basis = _orthonormal(sketch)
    seen = centred @ (basis / scale).T
    eigenvalues, rotation = np.linalg.eigh(seen.T @ seen)
    return Spectrum((rotation.T @ basis)[::-1].copy(), np.maximum(eigenvalues[::-1], 0).astype(np.float32))


def is_steep(centred: np.ndarray, scale: np.ndarray) -> bool:
    """Whether few directions hold much of the features' variance, by two power iterations on four random vectors.

    centred, scale: as in `spectrum`.
    """
    n, d = centred.shape
    vectors = np.random.default_rng(0).standard_normal((min(4, n, d), n), dtype=np.float32)
    for _ in range(2):
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors = (centred @ ((vectors @ centred) / scale**2).T).T
    mean = n * d / min(n, d)
    return bool(np.linalg.norm(vectors, axis=1).max() > STEEP * mean)


def _orthonormal(rows: np.ndarray) -> np.ndarray:
    """An orthonormal basis of the span of the rows, by their Gram matrix; directions lost in rounding are left out."""
    values, vectors = np.linalg.eigh((rows @ rows.T).astype(np.float64))
    there = values > values[-1] * 1e-6
    basis: np.ndarray = (vectors[:, there] / np.sqrt(values[there])).T.astype(np.float32) @ rows
    return basis
