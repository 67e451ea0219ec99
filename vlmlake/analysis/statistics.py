"""Estimators with their intervals. Each refuses, by name, input on which it would mean nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from vlmlake.errors import VlmlakeError

RESAMPLES = 1000


@dataclass(frozen=True)
class Estimate:
    """A statistic with its 95 % interval, and a p-value where its method gives one."""

    value: float
    low: float
    high: float
    p_value: float | None = None


def fisher_interval(correlation: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a correlation of n pairs by Fisher's z transform (Fisher 1921): tanh(atanh r +- z / sqrt(n - 3)).

    Raises VlmlakeError for fewer than four pairs.
    """
    if n < 4:
        raise VlmlakeError(f"a correlation's interval needs at least 4 examples, got {n}")
    half = stats.norm.ppf(0.5 + confidence / 2) / np.sqrt(n - 3)
    centre = np.arctanh(np.clip(correlation, -1 + 1e-15, 1 - 1e-15))
    return float(np.tanh(centre - half)), float(np.tanh(centre + half))


def point_biserial(values: np.ndarray, correct: np.ndarray, name: str) -> Estimate:
    """Point-biserial correlation of a metric with correctness, Fisher-z interval, two-sided t-test.

    values, correct: [n], correct of 0 and 1. name: of the metric, for the error.

    Raises VlmlakeError if the metric is constant or correctness has one class only.
    """
    require_two_classes(correct)
    if np.ptp(values) == 0:
        raise VlmlakeError(f"{name} is constant over all {len(values)} examples: it has no correlation with anything")
    found = stats.pearsonr(values, correct)
    low, high = fisher_interval(float(found.statistic), len(values))
    return Estimate(float(found.statistic), low, high, float(found.pvalue))


def auroc(
    scores: np.ndarray, correct: np.ndarray, images: np.ndarray, seed: int, strata: np.ndarray | None = None
) -> Estimate:
    """Area under the ROC curve, ties counted half, with a bootstrap percentile interval that resamples images.

    scores: [n], higher means more likely right. correct: [n] of 0 and 1. images: [n], the cluster of each example.
    strata: [n], for scores out of fold the number of the fold: only pairs of one stratum are compared, since scores of
    two models have no common zero. (Pooled, pure noise scores below one half: a fold with fewer right answers was
    trained on more of them.)

    Raises VlmlakeError if there is one class only, or no stratum that holds both.
    """
    require_two_classes(correct)
    _, cluster = np.unique(images, return_inverse=True)
    clusters = int(cluster.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(clusters, np.full(clusters, 1 / clusters), size=RESAMPLES)
    whole = weighted_auroc(scores, correct, np.ones((1, len(scores))), strata)[0]
    if np.isnan(whole):
        raise VlmlakeError("no fold holds right and wrong answers together: too few of one of them")
    low, high = np.nanquantile(weighted_auroc(scores, correct, drawn[:, cluster], strata), (0.025, 0.975))
    return Estimate(float(whole), float(low), float(high))


def weighted_auroc(
    scores: np.ndarray, correct: np.ndarray, weights: np.ndarray, strata: np.ndarray | None = None
) -> np.ndarray:
    """AUROC of the same n scores under many weightings at once, NaN where one weighting leaves no pair to compare.

    scores, correct: [n]. weights: [resamples, n], for instance how often a bootstrap drew each example. strata: [n],
    only pairs of one stratum count; one stratum by default. Returns [resamples], float64.
    """
    won, pairs = np.zeros(len(weights)), np.zeros(len(weights))
    strata = np.zeros(len(scores)) if strata is None else strata
    for stratum in np.unique(strata):
        chosen = strata == stratum
        for total, part in zip(
            (won, pairs), _won_pairs(scores[chosen], correct[chosen], weights[:, chosen]), strict=True
        ):
            total += part
    areas: np.ndarray = np.divide(won, pairs, out=np.full(len(won), np.nan), where=pairs > 0)
    return areas


def _won_pairs(scores: np.ndarray, correct: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per weighting: weight of the (right, wrong) pairs in which the right one scores higher, and of all pairs."""
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    right = correct[order].astype(bool)
    ordered_weights = weights[:, order].astype(np.float64)
    positive = np.add.reduceat(ordered_weights * right, starts, axis=1)
    negative = np.add.reduceat(ordered_weights * ~right, starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative
    return (positive * (below + negative / 2)).sum(axis=1), positive.sum(axis=1) * negative.sum(axis=1)


def wilson(successes: int, n: int, confidence: float = 0.95) -> Estimate:
    """A proportion with Wilson's score interval (Wilson 1927). Raises VlmlakeError if n is 0."""
    if n < 1:
        raise VlmlakeError("a proportion of no examples: expected at least 1")
    interval = stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return Estimate(successes / n, float(interval.low), float(interval.high))


def require_two_classes(correct: np.ndarray) -> None:
    """Raises VlmlakeError unless there are right and wrong answers."""
    right = int(np.sum(correct))
    if right in (0, len(correct)):
        raise VlmlakeError(f"{right} of {len(correct)} answers are right: expected right and wrong ones")
