"""The ROC curve's area."""

from __future__ import annotations

import numpy as np

from vlmlake.analysis.statistics.bootstrap import bootstrapped
from vlmlake.analysis.statistics.estimate import Estimate, require_aligned, require_numbers, require_two_classes
from vlmlake.errors import VlmlakeError


def auroc(
    scores: np.ndarray, correct: np.ndarray, images: np.ndarray, seed: int, strata: np.ndarray | None = None
) -> Estimate:
    """Area under the ROC curve, ties counted half, with a bootstrap percentile interval that resamples images.

    scores: [n], higher means more likely right. correct: [n] of 0 and 1. images: [n], the cluster of each example.
    strata: [n], for scores out of fold the number of the fold: only pairs of one stratum are compared, since scores of
    two models have no common zero. (Pooled, pure noise scores below one half: a fold with fewer right answers was
    trained on more of them.)

    Raises VlmlakeError if a score is no number, there is one class only, no stratum that holds both, fewer than two
    images, or a class in so few of them that resamples often miss it.
    """
    require_aligned(scores=scores, labels=correct, images=images)
    require_numbers(scores, "the score")
    require_two_classes(correct)
    if np.isnan(weighted_auroc(scores, correct, np.ones((1, len(scores))), strata)[0]):
        raise VlmlakeError("no fold holds right and wrong answers together: too few of one of them")
    return bootstrapped(lambda weights: weighted_auroc(scores, correct, weights, strata), images, seed)


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
    ordered, right = scores[order], correct[order].astype(bool)
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    taken = np.take(weights, order, axis=1).astype(np.float64)
    positive, negative = taken * right, taken * ~right
    if len(starts) < len(order):
        positive, negative = (np.add.reduceat(part, starts, axis=1) for part in (positive, negative))
    below = np.cumsum(negative, axis=1)
    pairs = positive.sum(axis=1) * below[:, -1]
    below -= negative / 2
    return np.einsum("kn,kn->k", positive, below), pairs
