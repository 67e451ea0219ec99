"""Whether a confidence can be read as a probability: Brier score and expected calibration error."""

from __future__ import annotations

import numpy as np

from vlmlake.analysis.statistics.bootstrap import BY_IMAGE, bootstrapped, drawn, levels
from vlmlake.analysis.statistics.estimate import (
    Estimate,
    require_aligned,
    require_binary,
    require_numbers,
)
from vlmlake.errors import VlmlakeError

BINS = 10
OF_BINS = f"{BY_IMAGE}, less the noise of bins"


def brier(probabilities: np.ndarray, correct: np.ndarray, images: np.ndarray, seed: int) -> Estimate:
    """Mean squared difference of probability and outcome (Brier 1950), as scikit-learn's brier_score_loss, with a
    percentile interval from resampled images.

    probabilities: [n], of being right. correct: [n] of 0 and 1. images: [n], the image of each example.

    Raises VlmlakeError for what is no probability, for no examples, and for fewer than two images.
    """
    _require_probabilities(probabilities, correct, images)
    return bootstrapped(lambda weights: weighted_brier(probabilities, correct, weights), images, seed)


def weighted_brier(probabilities: np.ndarray, correct: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Brier score of the same n probabilities under many weightings.

    probabilities, correct: [n], no NaN, which is not looked for: one makes all scores NaN. weights: [k, n], no row 0
    everywhere. Returns [k], float64.
    """
    squares = (np.asarray(probabilities, np.float64) - correct) ** 2
    found: np.ndarray = weights @ squares / weights.sum(axis=1)
    return found


def expected_calibration_error(
    probabilities: np.ndarray, correct: np.ndarray, images: np.ndarray, seed: int, bins: int = BINS
) -> Estimate:
    """Mean over bins of equal width, weighted by their examples, of |mean probability - share of right answers| (Guo et
    al. 2017, equation 3; bins are open below and closed above).

    probabilities: [n], of being right. correct: [n] of 0 and 1. images: [n], the image of each example. Noise in the
    bins raises the error of the examples above that of the population, and that of resamples again, so that a small
    one would lie below all percentiles. The upper bound is a percentile, which noise only raises, the value at least;
    the lower one is the value less what the bins' gaps move by in most of the resamples (by the triangle inequality
    the error moves by no more), 0 at least. Together they cover at 95 % or more.

    Raises VlmlakeError for what is no probability, for no examples, and for fewer than two images.
    """
    _require_probabilities(probabilities, correct, images)
    gaps, moved = drawn(lambda weights: weighted_gaps(probabilities, correct, weights, bins), images, seed)
    value = float(np.abs(gaps).sum())
    upper = levels(len(np.unique(images)))[1]
    noise, high = (np.quantile(np.abs(part).sum(axis=1), upper) for part in (moved - gaps, moved))
    return Estimate(value, float(max(0.0, value - noise)), float(max(value, high)), OF_BINS)


def weighted_gaps(probabilities: np.ndarray, correct: np.ndarray, weights: np.ndarray, bins: int = BINS) -> np.ndarray:
    """What each bin adds to the calibration error, with its sign, under many weightings: overconfidence is above 0.

    probabilities, correct: [n], no NaN, which is not looked for: one makes a whole bin NaN. weights: [k, n], no row 0
    everywhere. Returns [k, bins], float64.
    """
    bin_of = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], probabilities, side="left")
    gaps = np.zeros((len(bin_of), bins))
    gaps[np.arange(len(bin_of)), bin_of] = np.asarray(probabilities, np.float64) - correct
    found: np.ndarray = weights @ gaps / weights.sum(axis=1, keepdims=True)
    return found


def _require_probabilities(probabilities: np.ndarray, correct: np.ndarray, images: np.ndarray) -> None:
    require_aligned(probabilities=probabilities, labels=correct, images=images)
    require_numbers(probabilities, "the probability")
    require_binary(correct, "correctness")
    outside = int(((probabilities < 0) | (probabilities > 1)).sum())
    if outside:
        raise VlmlakeError(f"{outside} of {len(probabilities)} confidences are not between 0 and 1: no probabilities")
