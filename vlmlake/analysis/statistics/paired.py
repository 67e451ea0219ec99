"""The same examples answered twice: how many more are right before than after, and whether that is chance."""

from __future__ import annotations

from dataclasses import replace

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
from vlmlake.analysis.statistics.means import mean
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
        return _without_spread(drop, len(groups), p_value)
    squares = (np.bincount(group, difference - drop) ** 2).sum() / n**2
    quantile = 0.5 + CONFIDENCE / 2
    if len(groups) == n:
        half = stats.norm.ppf(quantile) * np.sqrt(squares)
    else:
        few = len(groups) / (len(groups) - 1)
        half = stats.t.ppf(quantile, len(groups) - 1) * np.sqrt(few * squares)
    interval = NORMAL if len(groups) == n else GROUPED
    return Estimate(drop, float(max(-1.0, drop - half)), float(min(1.0, drop + half)), interval, p_value)


def paired_drop_over_several(before: np.ndarray, several: np.ndarray, images: np.ndarray) -> Estimate:
    """Share of right answers before minus the share after, where several things were done that differ by chance: each
    example's mean over them comes first.

    before: [n] of 0 and 1. several: [m, n] of 0 and 1. images: [n]. The interval is that of statistics.means.mean; that
    of `paired_drop` where all examples differ alike. There is no p-value: a mean is no answer that is right or wrong.

    Raises VlmlakeError for no examples, a value that is neither 0 nor 1, and fewer than two images.
    """
    before, several = np.asarray(before, np.float64), np.asarray(several, np.float64)
    require_aligned(before=before, after=several[0], images=images)
    require_numbers(before, "the answers before")
    require_binary(before, "the answers before")
    require_binary(several.ravel(), "the answers after")
    difference = before - several.mean(axis=0)
    found = mean(difference, images, "the drop")
    return found if np.ptp(difference) else _without_spread(found.value, len(np.unique(images)), None)


def paired_contrast(several: np.ndarray, one: np.ndarray, images: np.ndarray, seed: int) -> Estimate:
    """Share of right answers under several variants, each example's mean over them first, minus that under another one,
    of the same examples, with a percentile interval from resampled images.

    several: [m, n] of 0 and 1, m variants that differ by chance. one: [n] of 0 and 1. images: [n]. The p-value is
    McNemar's exact one of the first variant against the other: a mean over variants is no answer that is right or
    wrong. Where all examples differ alike the interval is that of `paired_drop` then.

    Raises VlmlakeError for no examples or variants, a value that is neither 0 nor 1, and fewer than two images.
    """
    several, one = np.asarray(several, np.float64), np.asarray(one, np.float64)
    if not len(several):
        raise VlmlakeError("a contrast with no variants: expected at least 1")
    require_aligned(several=several[0], one=one, images=images)
    require_numbers(one, "the answers")
    require_binary(one, "the answers")
    require_binary(several.ravel(), "the answers under the variants")
    require_groups(images)
    difference = several.mean(axis=0) - one
    p_value = mcnemar(int((several[0] > one).sum()), int((several[0] < one).sum()))
    found = bootstrapped(lambda weights: weights @ difference / weights.sum(axis=1), images, seed)
    if not has_spread(found):
        return _without_spread(found.value, len(np.unique(images)), p_value)
    return replace(found, p_value=p_value)


def _without_spread(drop: float, images: int, p_value: float | None) -> Estimate:
    spread = wilson(0, images)[1] * (1 + abs(drop))
    return Estimate(drop, max(-1.0, drop - spread), min(1.0, drop + spread), NO_SPREAD, p_value)
