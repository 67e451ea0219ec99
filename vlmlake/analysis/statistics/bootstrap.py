"""The bootstrap that draws whole images: what an interval of a statistic without a formula rests on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vlmlake.analysis.statistics.estimate import CONFIDENCE, Estimate, require_groups
from vlmlake.errors import VlmlakeError

RESAMPLES = 1000
BY_IMAGE = "bootstrap of images"


def image_weights(images: np.ndarray, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
    """How often each resample draws each example: images are drawn with replacement, with all of their examples.

    images: [n], the image of each example. Returns [resamples, n], int64.

    Raises VlmlakeError for fewer than two images.
    """
    require_groups(images)
    _, cluster = np.unique(images, return_inverse=True)
    clusters = int(cluster.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(clusters, np.full(clusters, 1 / clusters), size=resamples)
    weights: np.ndarray = drawn[:, cluster]
    return weights


def bootstrapped(
    statistic: Callable[[np.ndarray], np.ndarray], images: np.ndarray, seed: int, resamples: int = RESAMPLES
) -> Estimate:
    """A statistic of weighted examples with its percentile interval (Efron and Tibshirani 1993, section 13.3).

    statistic: takes weights [k, n] and returns [k], NaN where a resample has no value.

    Raises VlmlakeError for fewer than two images, or if the statistic has no value on the examples themselves.
    """
    (found,) = bootstrapped_together(lambda weights: statistic(weights)[:, None], images, seed, resamples)
    if found is None:
        raise VlmlakeError("the statistic has no value on these examples")
    return found


def bootstrapped_together(
    statistics: Callable[[np.ndarray], np.ndarray], images: np.ndarray, seed: int, resamples: int = RESAMPLES
) -> list[Estimate | None]:
    """As `bootstrapped`, m statistics of the same resamples; None for one without a value on the examples themselves.

    statistics: takes weights [k, n] and returns [k, m].

    Raises VlmlakeError for fewer than two images.
    """
    values = statistics(np.ones((1, len(images))))[0]
    drawn = statistics(image_weights(images, seed, resamples))
    return [
        None if np.isnan(value) else _percentile(float(value), column)
        for value, column in zip(values, drawn.T, strict=True)
    ]


def _percentile(value: float, drawn: np.ndarray) -> Estimate:
    low, high = np.nanquantile(drawn, (0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2))
    return Estimate(value, float(low), float(high), BY_IMAGE)
