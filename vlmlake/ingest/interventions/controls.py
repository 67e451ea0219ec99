"""Control sets: as many neurons as the set they stand beside, of about the same activation norm, drawn by chance."""

from __future__ import annotations

from bisect import bisect_left

import numpy as np

from vlmlake.errors import VlmlakeError

NEAREST = 8
"""On either side of a neuron, in the order of norms, those among which its stand-in is drawn."""


def matched_sets(norms: np.ndarray, chosen: np.ndarray, count: int, seed: int) -> list[np.ndarray]:
    """`count` seeded sets of coordinates, each with one stand-in for each of `chosen`: drawn from the NEAREST on either
    side of its norm that are not taken yet.

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
    sets = []
    for member in range(count):
        rng = np.random.default_rng([seed, len(chosen), member])
        left = list(free)
        drawn = []
        for one in rng.permutation(wanted).tolist():
            middle = bisect_left(left, one)
            near = range(max(0, middle - NEAREST), min(len(left), middle + NEAREST))
            drawn.append(left.pop(int(rng.integers(near.start, near.stop))))
        sets.append(np.sort(order[drawn]))
    return sets
