"""Shares of examples, and ratios of counts."""

from __future__ import annotations

import numpy as np
from scipy import stats

from vlmlake.analysis.statistics.bootstrap import bootstrapped
from vlmlake.analysis.statistics.estimate import (
    CONFIDENCE,
    Estimate,
    has_spread,
    require_aligned,
    require_binary,
    require_groups,
    require_numbers,
)
from vlmlake.errors import VlmlakeError

WILSON = "Wilson"
GROUPED = "Wilson, effective n of images as groups"
NO_SPREAD = "Wilson, images counted"


def wilson(successes: float, n: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's score interval of a proportion of n independent examples (Wilson 1927), as statsmodels'
    proportion_confint(method="wilson"). n need not be whole.

    Raises VlmlakeError if n is below 1.
    """
    if n < 1:
        raise VlmlakeError("a proportion of no examples: expected at least 1")
    z = stats.norm.ppf(0.5 + confidence / 2)
    share = successes / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    # Rounding must not keep the interval from what it is built around.
    return float(min(share, max(0.0, centre - half))), float(max(share, min(1.0, centre + half)))


def proportion(hits: np.ndarray, images: np.ndarray) -> Estimate:
    """Share of examples that are 1, with Wilson's interval; examples of one image count as the effective number of
    independent ones.

    hits: [n] of 0 and 1. images: [n], the image of each example. The effective number is n over the design effect
    (Kish 1965), less the price of estimating that effect from few images (z / t with one degree of freedom less than
    there are images, squared; Korn and Graubard 1998), never more than n. Where all examples are alike there is no
    effect to estimate: each image then counts once.

    Raises VlmlakeError if there are no examples, for a value that is neither 0 nor 1, and where several examples share
    one image only.
    """
    require_aligned(values=hits, images=images)
    n = len(hits)
    if n < 1:
        raise VlmlakeError("a proportion of no examples: expected at least 1")
    require_binary(hits, "what is counted")
    share = float(np.mean(hits))
    groups, group = np.unique(images, return_inverse=True)
    if len(groups) == n:
        return Estimate(share, *wilson(share * n, n), WILSON)
    require_groups(images)
    if share in (0, 1):
        effective = float(len(groups))
    else:
        by_group = np.bincount(group, hits - share)
        variance = len(groups) / (len(groups) - 1) * (by_group**2).sum() / n**2
        quantile = 0.5 + CONFIDENCE / 2
        price = (stats.norm.ppf(quantile) / stats.t.ppf(quantile, len(groups) - 1)) ** 2
        effective = max(1.0, min(n, share * (1 - share) / max(variance, 1e-300)) * price)
    return Estimate(share, *wilson(share * effective, effective), GROUPED)


def ratio(counted: np.ndarray, of: np.ndarray, images: np.ndarray, seed: int) -> Estimate:
    """Sum of one column over the sum of another, with a percentile interval from resampled images.

    counted, of: [n], numbers of 0 or more. images: [n], the image of each example. Precision is true positives over
    predicted ones, F1 twice the true positives over the predicted and the actual ones together. Where all resamples are
    alike, as when precision is 1, they tell nothing of how the ratio varies: the interval is Wilson's for as many
    trials as images are counted, those whose denominator is above 0.

    Raises VlmlakeError for no examples, a NaN, fewer than two images, where the denominator is 0 in the examples or in
    too many resamples, or where all resamples are alike and the ratio is no share.
    """
    require_aligned(counted=counted, of=of, images=images)
    require_numbers(counted, "what is counted")
    require_numbers(of, "what it is counted of")

    def weighted(weights: np.ndarray) -> np.ndarray:
        above, below = weights @ np.asarray(counted, np.float64), weights @ np.asarray(of, np.float64)
        found: np.ndarray = np.divide(above, below, out=np.full(len(weights), np.nan), where=below > 0)
        return found

    found = bootstrapped(weighted, images, seed)
    if has_spread(found):
        return found
    if not 0 <= found.value <= 1:
        raise VlmlakeError(f"the ratio is {found.value:g} in all resamples of the images: no share, and no interval")
    trials = len(np.unique(images[of > 0]))
    return Estimate(found.value, *wilson(found.value * trials, trials), NO_SPREAD)
