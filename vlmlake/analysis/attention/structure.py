"""Numbers that say how an attention map spreads over the patches of an image, for many maps at once."""

from __future__ import annotations

import numpy as np

from vlmlake.analysis.attention.clusters import Grids, components, dbscan_clusters

TINY = np.float32(1e-30)
"""Added before a logarithm: 0 ln 0 is 0 then, and no weight that a float16 can hold changes."""

PERCENTILE = 0.9
CLUSTERED_MASS = 0.3
TOP_SHARES = {"mass_top10": 0.1, "mass_top30": 0.3}
METRICS = ("entropy", "entropy_normalised", "clusters_dbscan_p90", "clusters_components_mass30", *TOP_SHARES, "gini")
"""What `structure` says of a map."""


def entropy(weights: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """Shannon entropy in nats of weights once they are divided by their sum, which no copy is made for: ln M -
    (sum w ln w) / M.

    weights: [..., W], float32 or float64. mass: [...], their sums M. Returns [...], of the dtype of
    `weights`; NaN where the mass is 0 or a weight negative.
    """
    logarithms = weights + TINY
    with np.errstate(divide="ignore", invalid="ignore"):
        np.log(logarithms, out=logarithms)
        found: np.ndarray = np.log(mass) - np.vecdot(weights, logarithms) / mass
    return found


def normalised(entropies: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Entropies over ln S, their largest value: the form in which models of different grids compare.

    entropies: [...], in nats. sizes: [...], patches S of each. Returns [...]; NaN for a single patch.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        shares: np.ndarray = entropies / np.log(sizes).astype(entropies.dtype)
    return shares


def structure(maps: np.ndarray, grids: Grids) -> np.ndarray:
    """The METRICS of each map, from one sort of its patches.

    entropy: H_s = -sum m ln m, in nats; entropy_normalised: H_s / ln S (arXiv 2605.08200). clusters_dbscan_p90:
    DBSCAN's clusters among patches at or above the 90th percentile (numpy's linear one). clusters_components_mass30:
    8-connected components of the smallest set of patches that holds 30 % of the mass; of equal patches at its edge, the
    first ones in the order of tokens. mass_top10, mass_top30: mass of the floor(0.1 S) and floor(0.3 S) strongest
    patches, at least one. gini: the Gini coefficient of the patches' masses, 0 where all are equal (Gini 1912).

    maps: [maps, W], float32, each of sum 1 over its patches and 0 elsewhere. Returns [METRICS, maps], float64.
    """
    width, sizes = maps.shape[1], grids.sizes
    ascending = np.sort(maps, axis=1)
    held = np.cumsum(ascending[:, ::-1], axis=1, dtype=np.float64)
    mass = held[:, -1]
    spread = entropy(maps, mass.astype(maps.dtype)).astype(np.float64)
    by_rank = (width + 1) * mass - held.sum(axis=1)
    found = {
        "entropy": spread,
        "entropy_normalised": normalised(spread, sizes),
        "clusters_dbscan_p90": dbscan_clusters(grids.stack(_above_percentile(maps, ascending, grids))),
        "clusters_components_mass30": components(grids.stack(_holding(maps, ascending, held, CLUSTERED_MASS))),
        "gini": (sizes + 1) / sizes - 2 * by_rank / (sizes * mass),
    }
    for name, share in TOP_SHARES.items():
        last = np.maximum(1, np.floor(share * sizes).astype(int)) - 1
        found[name] = np.take_along_axis(held, last[:, None], axis=1)[:, 0] / mass
    return np.stack([found[name] for name in METRICS]).astype(np.float64)


def _above_percentile(maps: np.ndarray, ascending: np.ndarray, grids: Grids) -> np.ndarray:
    """[maps, W], true at patches at or above the map's own percentile; what is no patch sorts before all that are."""
    place = PERCENTILE * (grids.sizes - 1)
    below = np.floor(place).astype(int)
    offset = maps.shape[1] - grids.sizes
    low, high = (
        np.take_along_axis(ascending, (offset + np.minimum(at, grids.sizes - 1))[:, None], axis=1)[:, 0].astype(float)
        for at in (below, below + 1)
    )
    part = place - below
    # the form in which numpy.percentile interpolates, so that a patch on the threshold is on the same side of it
    threshold = np.where(part >= 0.5, high - (high - low) * (1 - part), low + (high - low) * part)
    chosen: np.ndarray = (maps >= threshold[:, None]) & grids.patches
    return chosen


def _holding(maps: np.ndarray, ascending: np.ndarray, held: np.ndarray, share: float) -> np.ndarray:
    """[maps, W], true at the fewest patches that hold a share of the mass. held: [maps, W], mass of the strongest."""
    wanted = (held < share * held[:, -1:]).sum(axis=1) + 1
    least = np.take_along_axis(ascending, (maps.shape[1] - wanted)[:, None], axis=1)
    chosen: np.ndarray = maps >= least
    tied = np.flatnonzero(chosen.sum(axis=1) > wanted)
    if len(tied):
        above, equal = maps[tied] > least[tied], maps[tied] == least[tied]
        room = wanted[tied] - above.sum(axis=1)
        chosen[tied] = above | (equal & (np.cumsum(equal, axis=1) <= room[:, None]))
    return chosen
