"""The same examples answered twice: how many more are right before than after, and whether that is chance."""

from __future__ import annotations

import numpy as np
from scipy import stats

from vlmlake.analysis.statistics.estimate import (
    CONFIDENCE,
    Estimate,
    require_aligned,
    require_binary,
    require_groups,
    require_numbers,
)
from vlmlake.analysis.statistics.proportions import wilson
from vlmlake.errors import VlmlakeError

NORMAL = "normal, paired"
GROUPED = "Student t, images as groups"
NO_SPREAD = "Wilson, images that could differ"


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided McNemar test, as statsmodels' mcnemar(exact=True): the pairs that differ are coin flips under the
    null hypothesis (McNemar 1947; binomial).

    only_first, only_second: how many pairs are right in the first only, in the second only. 1 where no pair differs.

    Raises VlmlakeError for a negative count.
    """
    if min(only_first, only_second) < 0:
        raise VlmlakeError(f"{only_first} and {only_second} pairs differ: expected counts of 0 or more")
    differing = only_first + only_second
    return float(min(1.0, 2 * stats.binom.cdf(min(only_first, only_second), differing, 0.5)))


def paired_drop(before: np.ndarray, after: np.ndarray, images: np.ndarray) -> Estimate:
    """Share of right answers before minus the share after, of the same examples, with the exact McNemar p-value.

    before, after: [n] of 0 and 1, of the same examples in the same order. images: [n], the image of each example.
    Where every example has an image of its own, the interval is the normal one of a paired difference (Fleiss, Levin
    and Paik 2003, section 13.1). Where examples share images, its variance is that of the images' sums (Liang and Zeger
    1986), with Student's t of one degree of freedom less than there are images; McNemar's p-value then still treats
    examples as independent. Where all pairs differ alike, as when none does, there is no spread to build on: the
    interval is as wide as the Wilson bound of images among which not one is otherwise.

    Raises VlmlakeError for no examples, a value that is neither 0 nor 1, and fewer than two images.
    """
    require_aligned(before=before, after=after, images=images)
    require_numbers(np.asarray(before, np.float64), "the answers before")
    require_binary(before, "the answers before")
    require_binary(after, "the answers after")
    require_groups(images)
    difference = np.asarray(before, np.float64) - np.asarray(after, np.float64)
    p_value = mcnemar(int((difference > 0).sum()), int((difference < 0).sum()))
    n, drop = len(difference), float(difference.mean())
    groups, group = np.unique(images, return_inverse=True)
    if np.ptp(difference) == 0:
        spread = wilson(0, len(groups))[1] * (1 + abs(drop))
        return Estimate(drop, max(-1.0, drop - spread), min(1.0, drop + spread), NO_SPREAD, p_value)
    squares = (np.bincount(group, difference - drop) ** 2).sum() / n**2
    quantile = 0.5 + CONFIDENCE / 2
    if len(groups) == n:
        half = stats.norm.ppf(quantile) * np.sqrt(squares)
    else:
        few = len(groups) / (len(groups) - 1)
        half = stats.t.ppf(quantile, len(groups) - 1) * np.sqrt(few * squares)
    interval = NORMAL if len(groups) == n else GROUPED
    return Estimate(drop, float(max(-1.0, drop - half)), float(min(1.0, drop + half)), interval, p_value)
