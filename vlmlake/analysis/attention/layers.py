"""What the change of entropy from block to block says of a model: where it locks on, where it rests, how it ends."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from vlmlake.analysis.layer_order import block_numbers
from vlmlake.analysis.population import Population
from vlmlake.analysis.statistics.bootstrap import bootstrapped_together
from vlmlake.errors import VlmlakeError

PLATEAU_START = ("plateau_start", "longest_run")
DERIVED = (
    ("lock_layer", "argmin"),
    ("lock_size", "min"),
    PLATEAU_START,
    ("plateau_length", "longest_run"),
    ("late_diffusion", "last"),
)
"""Metric and statistic of each row of `profile_rows`."""


def entropy_change(entropies: np.ndarray, layers: Sequence[str]) -> np.ndarray:
    """dH_s[l] = H_s[l] - H_s[l-1] in nats; NaN where the block before is not kept, as before the first.

    entropies: [..., L], over these blocks. Returns [..., L], float64.
    """
    numbers = block_numbers(layers)
    change = np.full(entropies.shape, np.nan)
    follows = 1 + np.flatnonzero(np.diff(numbers) == 1)
    change[..., follows] = entropies[..., follows] - entropies[..., follows - 1]
    return change


def profile(weights: np.ndarray, change: np.ndarray, numbers: np.ndarray, threshold: float) -> np.ndarray:
    """The DERIVED numbers of the mean change under many weightings of the examples.

    lock_layer: number of the block at which mean entropy falls most, lock_size: its change in nats. plateau_start and
    plateau_length: the longest run of neighbouring blocks whose mean change is smaller than the threshold (the first
    one of equals): number of its first block (NaN where there is none) and how many they are. late_diffusion: change
    at the last block. (arXiv 2605.08200.)

    weights: [k, n]. change: [n, m], nats, at the blocks `numbers`, [m], ascending. threshold: nats. Returns [k,
    DERIVED], float64.
    """
    weights = np.asarray(weights, np.float64)
    mean = weights @ change / weights.sum(axis=1, keepdims=True)
    lock = mean.argmin(axis=1)
    running, longest = np.zeros(len(mean), int), np.zeros(len(mean), int)
    start = np.full(len(mean), np.nan)
    for place, number in enumerate(numbers):
        if place and number != numbers[place - 1] + 1:
            running[:] = 0
        running = np.where(np.abs(mean[:, place]) < threshold, running + 1, 0)
        longer = running > longest
        longest[longer] = running[longer]
        start[longer] = number - running[longer] + 1
    return np.stack([numbers[lock], mean[np.arange(len(mean)), lock], start, longest, mean[:, -1]], axis=1)


def profile_rows(
    chosen: Population, change: np.ndarray, layers: Sequence[str], threshold: float, seed: int, position: str
) -> list[dict[str, Any]]:
    """The DERIVED rows with intervals that resample images. change: [len(chosen), L], NaN at blocks that have none."""
    numbers = block_numbers(layers)
    there = ~np.isnan(change).all(axis=0)
    try:
        if not there.any():
            raise VlmlakeError("the run keeps no two neighbouring blocks")
        statistic = partial(profile, change=change[:, there], numbers=numbers[there], threshold=threshold)
        found = bootstrapped_together(statistic, chosen.images, seed)
    except VlmlakeError as error:
        return [chosen.refusal(metric, statistic, error, position=position) for metric, statistic in DERIVED]
    start = DERIVED.index(PLATEAU_START)
    if isinstance(found[start], VlmlakeError):
        found[start] = VlmlakeError(
            f"no block changes mean entropy by less than {threshold:g} nats, or few resamples do"
        )
    return [
        chosen.refusal(metric, statistic, estimate, position=position)
        if isinstance(estimate, VlmlakeError)
        else chosen.row(metric, statistic, estimate, position=position)
        for (metric, statistic), estimate in zip(DERIVED, found, strict=True)
    ]
