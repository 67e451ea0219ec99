"""The bootstrap that draws whole images: what an interval of a statistic without a formula rests on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import stats

from vlmlake.analysis.statistics.estimate import CONFIDENCE, Estimate, require_groups
from vlmlake.errors import VlmlakeError

RESAMPLES = 1000
BY_IMAGE = "bootstrap of images"
MOST_WITHOUT = 0.2
"""Share of resamples that may leave a statistic without a value. A class that is found in one image only is missing
from 37 % of them, and the others would tell nothing of how it varies."""
PIECE = 2**21
"""Weights that a statistic is given at once."""

Weighted = Callable[[np.ndarray], np.ndarray]
"""A statistic of weighted examples: takes weights [k, n], returns [k], or [k, m] for m statistics at once, NaN where a
weighting leaves no value."""


def image_weights(images: np.ndarray, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
    """How often each resample draws each example: images are drawn with replacement, with all of their examples.

    images: [n], the image of each example. Returns [resamples, n], int64.

    Raises VlmlakeError for fewer than two images.
    """
    require_groups(images)
    _, cluster = np.unique(images, return_inverse=True)
    weights: np.ndarray = _image_draws(cluster, seed, resamples)[:, cluster]
    return weights


def bootstrapped(
    statistic: Weighted, images: np.ndarray, seed: int, resamples: int = RESAMPLES, groups: int | None = None
) -> Estimate:
    """A statistic of weighted examples with its percentile interval (Efron and Tibshirani 1993, section 13.3), at
    `levels`.

    statistic: takes weights [k, n] and returns [k], NaN where a resample has no value. groups: as of `levels`, where it
    is not the number of all images.

    Raises VlmlakeError for fewer than two images, if the statistic has no value on the examples themselves, or none in
    more than MOST_WITHOUT of the resamples.
    """
    return percentiles(*drawn(statistic, images, seed, resamples), groups or len(np.unique(images)))


def bootstrapped_together(
    statistics: Weighted, images: np.ndarray, seed: int, resamples: int = RESAMPLES, groups: int | None = None
) -> list[Estimate | VlmlakeError]:
    """As `bootstrapped`, m statistics of the same resamples; in place of one that is refused, the error.

    statistics: takes weights [k, n] and returns [k, m].

    Raises VlmlakeError for fewer than two images.
    """
    values, draws = drawn(statistics, images, seed, resamples)
    found: list[Estimate | VlmlakeError] = []
    for value, column in zip(values, draws.T, strict=True):
        try:
            found.append(percentiles(value, column, groups or len(np.unique(images))))
        except VlmlakeError as error:
            found.append(error)
    return found


def drawn(
    statistic: Weighted, images: np.ndarray, seed: int, resamples: int = RESAMPLES
) -> tuple[np.ndarray, np.ndarray]:
    """A statistic's value on the examples, [] or [m], and its values on resamples of the images, [resamples] or
    [resamples, m]. The same images and seed give the same resamples, whatever the statistic.

    Raises VlmlakeError for fewer than two images.
    """
    require_groups(images)
    _, cluster = np.unique(images, return_inverse=True)
    value = statistic(np.ones((1, len(images)), np.int64))[0]
    draws = _image_draws(cluster, seed, resamples)
    # Statistics sort and sum arrays of the weights' shape: a piece at a time keeps them small.
    step = max(1, PIECE // len(images))
    pieces = [statistic(draws[start : start + step, cluster]) for start in range(0, resamples, step)]
    return value, np.concatenate(pieces)


def levels(groups: int) -> tuple[float, float]:
    """The levels of the lower and the upper percentile for so many images, of which a statistic of two classes has as
    many as the class that is found in fewer of them. groups: at least 2.

    Resamples of G images spread less than samples do, by (G - 1) / G, and know their spread only so well: the levels
    are those of sqrt(G / (G - 1)) times Student's t with G - 1 degrees of freedom (Hesterberg 2015, "What teachers
    should know about the bootstrap", expanded percentiles).
    """
    reach = np.sqrt(groups / (groups - 1)) * stats.t.ppf(0.5 + CONFIDENCE / 2, groups - 1)
    return float(stats.norm.cdf(-reach)), float(stats.norm.cdf(reach))


def percentiles(value: np.ndarray | float, values: np.ndarray, groups: int) -> Estimate:
    """The percentile interval of one statistic. value: on the examples; values: [resamples]; groups: as of `levels`.

    Raises VlmlakeError where `value` is NaN, or more than MOST_WITHOUT of `values` are.
    """
    if np.isnan(value):
        raise VlmlakeError("the statistic has no value on these examples")
    without = int(np.isnan(values).sum())
    if without > MOST_WITHOUT * len(values):
        raise VlmlakeError(
            f"the statistic has no value on {without} of {len(values)} resamples of the images: what it compares is "
            "found in too few of them"
        )
    low, high = np.nanquantile(values, levels(groups))
    return Estimate(float(value), float(low), float(high), BY_IMAGE)


def _image_draws(cluster: np.ndarray, seed: int, resamples: int) -> np.ndarray:
    clusters = int(cluster.max()) + 1
    draws: np.ndarray = np.random.default_rng(seed).multinomial(
        clusters, np.full(clusters, 1 / clusters), size=resamples
    )
    return draws
