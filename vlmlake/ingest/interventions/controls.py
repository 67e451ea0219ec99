"""Control sets: as many neurons as the set they stand beside, of about the same activation norm, drawn by chance."""

from __future__ import annotations

from bisect import bisect_left

import numpy as np

from vlmlake.errors import VlmlakeError

NEAREST = 8
"""On either side of a neuron, in the order of norms, those among which its stand-in is drawn, at least."""
FURTHEST = 8
"""The part of all neurons, one in so many, that may be among them where fewer would give too few different sets."""
DRAWS = 20
"""Before a set that was drawn already ends the search for more."""


def matched_sets(norms: np.ndarray, chosen: np.ndarray, count: int, seed: int) -> list[np.ndarray]:
    """`count` different seeded sets of coordinates, each with one stand-in for each of `chosen`, drawn from those
    nearest to it in norm that are not taken yet; fewer sets where there are not as many.

    norms: [d], of every coordinate. chosen: [k], the set that they are compared with; its own neurons are no stand-ins
    where there are twice as many others, else any may be drawn. Returns arrays [k], int64, sorted.

    Raises VlmlakeError if the set holds every coordinate: then there is nothing to compare it with.
    """
    width = len(norms)
    if len(chosen) >= width:
        raise VlmlakeError(f"all {width} neurons are ablated: expected fewer, so that there are others as controls")
    order = np.argsort(norms, kind="stable")
    place = np.empty(width, np.int64)
    place[order] = np.arange(width)
    apart = set(place[chosen].tolist()) if width - len(chosen) >= 2 * len(chosen) else set()
    free = [one for one in range(width) if one not in apart]
    wanted, nearest = place[chosen], _nearest(width, len(chosen), count)
    rng = np.random.default_rng([seed, len(chosen)])
    sets: dict[bytes, np.ndarray] = {}
    while len(sets) < count:
        for _ in range(DRAWS):
            drawn = np.sort(order[_drawn(wanted, free, nearest, rng)])
            if drawn.tobytes() not in sets:
                break
        else:
            break
        sets[drawn.tobytes()] = drawn
    return list(sets.values())


def _drawn(wanted: np.ndarray, free: list[int], nearest: int, rng: np.random.Generator) -> list[int]:
    """Places in the order of norms, one near each of `wanted`."""
    left, drawn = list(free), []
    for one in rng.permutation(wanted).tolist():
        middle = bisect_left(left, one)
        near = range(max(0, middle - nearest), min(len(left), middle + nearest))
        drawn.append(left.pop(int(rng.integers(near.start, near.stop))))
    return drawn


def _nearest(width: int, size: int, count: int) -> int:
    """Neighbours on either side that make about four times as many sets as are wanted, within bounds."""
    enough = int(np.ceil((4 * count) ** (1 / size) / 2))
    return max(NEAREST, min(enough, width // FURTHEST))
