"""Control sets: as many neurons as the set they stand beside, of about the same activation norm, drawn by chance."""

from __future__ import annotations

from bisect import bisect_left

import numpy as np

from vlmlake.errors import VlmlakeError

NEAREST = 8
"""On either side of a neuron, in the order of norms, those among which its stand-in is drawn."""
TRIES = 8
"""How often a set that is there already is drawn again before neurons twice as far away are taken, too."""


def matched_sets(norms: np.ndarray, chosen: np.ndarray, count: int, seed: int) -> list[np.ndarray]:
    """`count` seeded sets of coordinates, each with one stand-in for each of `chosen`: drawn from the NEAREST on either
    side of its norm that are not taken yet. A set that is there already is drawn again, from twice as far where the
    nearest are used up, as for a set of one; two are the same only where there are hardly others.

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
    wanted = place[chosen]
    sets: list[tuple[int, ...]] = []
    for member in range(count):
        rng = np.random.default_rng([seed, len(chosen), member])
        reach, tries = NEAREST, 1
        while (drawn := _drawn(rng, free, wanted, reach)) in sets and reach < 4 * len(free):
            reach, tries = (reach, tries + 1) if tries < TRIES else (2 * reach, 1)
        sets.append(drawn)
    return [np.sort(order[list(drawn)]) for drawn in sets]


def _drawn(rng: np.random.Generator, free: list[int], wanted: np.ndarray, reach: int) -> tuple[int, ...]:
    """Places in the order of norms, one for each of `wanted`, ascending."""
    left, drawn = list(free), []
    for one in rng.permutation(wanted).tolist():
        middle = bisect_left(left, one)
        near = range(max(0, middle - reach), min(len(left), middle + reach))
        drawn.append(left.pop(int(rng.integers(near.start, near.stop))))
    return tuple(sorted(drawn))
