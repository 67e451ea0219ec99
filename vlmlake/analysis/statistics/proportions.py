"""Shares of examples."""

from __future__ import annotations

import numpy as np
from scipy import stats

from vlmlake.analysis.statistics.estimate import CONFIDENCE, Estimate, require_groups
from vlmlake.errors import VlmlakeError

WILSON = "Wilson"
GROUPED = "Wilson, effective n of images as groups"


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
    return float(max(0.0, centre - half)), float(min(1.0, centre + half))


def proportion(hits: np.ndarray, images: np.ndarray) -> Estimate:
    """Share of examples that are 1, with Wilson's interval; examples of one image count as the effective number of
    independent ones: n over the design effect (Kish 1965), never more than n.

    hits: [n] of 0 and 1. images: [n], the image of each example.

    Raises VlmlakeError if there are no examples; where they share one image only.
    """
    n = len(hits)
    if n < 1:
        raise VlmlakeError("a proportion of no examples: expected at least 1")
    share = float(np.mean(hits))
    groups, group = np.unique(images, return_inverse=True)
    if len(groups) == n:
        return Estimate(share, *wilson(share * n, n), WILSON)
    require_groups(images)
    by_group = np.bincount(group, hits - share)
    variance = len(groups) / (len(groups) - 1) * (by_group**2).sum() / n**2
    effect = max(1.0, variance / (share * (1 - share) / n)) if 0 < share < 1 else 1.0
    return Estimate(share, *wilson(share * n / effect, n / effect), GROUPED)
