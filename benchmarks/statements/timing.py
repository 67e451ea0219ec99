"""How long several ways to one answer take: all of them in turn, round after round, the best of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from stores import counts
from stores.counts import Cost

from statements.lake import forget_indexes


def measured(ways: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, tuple[Cost, Any]]:
    """By name what each cost and what it answered. Forwards and backwards in turn, so that a drifting machine favours
    none, after one round that is not counted; no index of a shard is known to any.
    """
    found: dict[str, tuple[Cost, Any]] = {}
    for number in range(1 + rounds):
        for name in list(ways) if number % 2 else reversed(list(ways)):
            forget_indexes()
            cost, answer = counts.local(ways[name])
            if number and (name not in found or cost.seconds < found[name][0].seconds):
                found[name] = cost, answer
    return found
