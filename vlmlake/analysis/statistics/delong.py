"""DeLong's interval of the area under the ROC curve: a formula, for examples that are independent of one another."""

from __future__ import annotations

import numpy as np
from scipy import stats

from vlmlake.analysis.statistics.estimate import (
    CONFIDENCE,
    Estimate,
    require_aligned,
    require_numbers,
    require_two_classes,
)
from vlmlake.errors import VlmlakeError

DELONG = "DeLong"


def delong(scores: np.ndarray, correct: np.ndarray) -> Estimate:
    """Area under the ROC curve, ties counted half, with DeLong's interval (DeLong, DeLong and Clarke-Pearson 1988) and
    the two-sided p-value of an area of one half; by midranks, in n log n (Sun and Xu 2014).

    scores: [n], higher means more likely right. correct: [n] of 0 and 1. Examples that share images are not
    independent: theirs is the bootstrap of `auroc`, which for examples with an image each gives nearly the same one.

    Raises VlmlakeError if a score is no number, for fewer than two right or two wrong answers, or where their scores do
    not overlap: then the variance is 0 and there is no interval.
    """
    require_aligned(scores=scores, labels=correct)
    require_numbers(scores, "the score")
    require_two_classes(correct)
    right = np.asarray(correct) == 1
    positives, negatives = np.asarray(scores)[right], np.asarray(scores)[~right]
    if min(len(positives), len(negatives)) < 2:
        raise VlmlakeError(f"{len(positives)} right and {len(negatives)} wrong answers: expected at least 2 of each")
    ranks = stats.rankdata(np.concatenate([positives, negatives]))
    # Of each right answer the share of wrong ones below it, of each wrong answer the share of right ones above it.
    below = (ranks[: len(positives)] - stats.rankdata(positives)) / len(negatives)
    above = 1 - (ranks[len(positives) :] - stats.rankdata(negatives)) / len(positives)
    area = float(below.mean())
    variance = below.var(ddof=1) / len(positives) + above.var(ddof=1) / len(negatives)
    if variance == 0:
        raise VlmlakeError("the scores of right and wrong answers do not overlap: DeLong's variance is 0")
    half = stats.norm.ppf(0.5 + CONFIDENCE / 2) * np.sqrt(variance)
    p_value = 2 * stats.norm.sf(abs(area - 0.5) / np.sqrt(variance))
    return Estimate(area, float(max(0.0, area - half)), float(min(1.0, area + half)), DELONG, float(p_value))
