"""The ROC curve's area."""

from __future__ import annotations

import numpy as np

from vlmlake.analysis.statistics.bootstrap import bootstrapped, bootstrapped_together
from vlmlake.analysis.statistics.estimate import Estimate, require_aligned, require_numbers, require_two_classes
from vlmlake.errors import VlmlakeError

PAIRS_AN_EXAMPLE = 500
"""Up to here comparing every (right, wrong) pair once is cheaper than sorting and summing each resample."""


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
    (found,) = aurocs(scores[None], correct, images, seed, strata)
    return found


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


def aurocs(
    scores: np.ndarray, correct: np.ndarray, images: np.ndarray, seed: int, strata: np.ndarray | None = None
) -> list[Estimate]:
    """Of each row of scores [m, n] what `auroc` says of it; the resamples are drawn once for all.

    Raises VlmlakeError as `auroc`.
    """
    for row in scores:
        require_aligned(scores=row, labels=correct, images=images)
        require_numbers(row, "the score")
        require_two_classes(correct)
        if np.isnan(weighted_auroc(row, correct, np.ones((1, len(row)), int), strata)[0]):
            raise VlmlakeError("no fold holds right and wrong answers together: too few of one of them")

    def areas(weights: np.ndarray) -> np.ndarray:
        return np.stack([weighted_auroc(row, correct, weights, strata) for row in scores], axis=1)

    found = bootstrapped_together(areas, images, seed)
    refused = next((one for one in found if isinstance(one, VlmlakeError)), None)
    if refused:
        raise refused
    return [one for one in found if isinstance(one, Estimate)]


def auroc_gain(
    scores: np.ndarray,
    others: np.ndarray,
    correct: np.ndarray,
    images: np.ndarray,
    seed: int,
    strata: np.ndarray | None = None,
) -> Estimate:
    """AUROC of scores less that of others on the same examples; each resample of images draws both: the bootstrap is
    paired.

    scores, others, correct: [n]. images, seed, strata: as in `auroc`.

    Raises VlmlakeError as `auroc`.
    """
    require_two_classes(correct)
    return bootstrapped(
        lambda weights: (
            weighted_auroc(scores, correct, weights, strata) - weighted_auroc(others, correct, weights, strata)
        ),
        images,
        seed,
    )


def _won_pairs(scores: np.ndarray, correct: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per weighting: weight of the (right, wrong) pairs in which the right one scores higher, and of all pairs."""
    right = correct.astype(bool)
    if right.sum() * (~right).sum() <= PAIRS_AN_EXAMPLE * len(scores):
        return _compared(scores, right, weights)
    return _sorted(scores, right, weights)


def _compared(scores: np.ndarray, right: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every pair is compared once; each weighting is then a row of a matrix product."""
    # Whole numbers that sum to less than 2^23, and their halves, are exact in float32.
    dtype: type[np.float32 | np.float64]
    exact = np.issubdtype(weights.dtype, np.integer) and weights.sum(axis=1, initial=0).max(initial=0) < 2**23
    dtype = np.float32 if exact else np.float64
    positive, negative = weights[:, right].astype(dtype), weights[:, ~right].astype(dtype)
    above, below = scores[right][:, None], scores[~right]
    wins = (above > below).astype(dtype)
    wins += (above == below) * dtype(0.5)
    won = ((positive @ wins).astype(np.float64) * negative).sum(axis=1)
    return won, positive.sum(axis=1, dtype=np.float64) * negative.sum(axis=1, dtype=np.float64)


def _sorted(scores: np.ndarray, right: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same by running sums over the sorted scores, where pairs are too many to be compared one by one."""
    order = np.argsort(scores, kind="stable")
    ordered, right = scores[order], right[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    taken = np.take(weights, order, axis=1).astype(np.float64)
    positive, negative = taken * right, taken * ~right
    if len(starts) < len(order):
        positive, negative = (np.add.reduceat(part, starts, axis=1) for part in (positive, negative))
    below = np.cumsum(negative, axis=1)
    pairs = positive.sum(axis=1) * below[:, -1]
    below -= negative / 2
    return np.einsum("kn,kn->k", positive, below), pairs
