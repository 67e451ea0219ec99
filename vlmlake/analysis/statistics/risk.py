"""Selective prediction: how often the answers that a confidence lets through are wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vlmlake.analysis.statistics.bootstrap import drawn, percentiles
from vlmlake.analysis.statistics.estimate import Estimate, require_aligned, require_numbers, require_two_classes
from vlmlake.analysis.statistics.proportions import wilson
from vlmlake.errors import VlmlakeError

COVERAGES = tuple(tenth / 10 for tenth in range(1, 11))
FEW_WRONG = 5
FEW = "Wilson, images answered"


@dataclass(frozen=True)
class RiskCurve:
    """risks: selective risk at each of `coverages`. aurc: its mean over all coverages. excess: aurc less that of the
    best ordering of the same answers.
    """

    coverages: tuple[float, ...]
    risks: tuple[Estimate, ...]
    aurc: Estimate
    excess: Estimate


def risk_curve(
    scores: np.ndarray,
    correct: np.ndarray,
    images: np.ndarray,
    seed: int,
    coverages: Sequence[float] = COVERAGES,
) -> RiskCurve:
    """The risk-coverage curve (El-Yaniv and Wiener 2010), its area (Geifman and El-Yaniv 2017) and the excess of that
    over the optimum (Geifman, Uziel and El-Yaniv 2019), each with a percentile interval from resampled images.

    scores: [n], higher means more confident. correct: [n] of 0 and 1. images: [n], the image of each example. Risk at a
    coverage is the share of wrong answers among that share of examples, the most confident ones; equal scores are
    answered in any order, and what is given is the mean over orders. Where fewer than FEW_WRONG of the answers let
    through are wrong, resamples know too little of them: the interval is Wilson's for as many images as were answered.

    Raises VlmlakeError if a score is no number, there is one class only, fewer than two images, or a coverage is not
    above 0 and at most 1.
    """
    require_aligned(scores=scores, labels=correct, images=images)
    require_numbers(scores, "the confidence")
    require_two_classes(correct)
    if not all(0 < coverage <= 1 for coverage in coverages):
        raise VlmlakeError(f"coverages are {list(coverages)}: expected shares above 0, at most 1")
    value, values = drawn(lambda weights: weighted_risks(scores, correct, weights, coverages), images, seed)
    estimates = [percentiles(one, many, len(np.unique(images))) for one, many in zip(value, values.T, strict=True)]
    *risks, aurc, excess = estimates
    bounded = [_bounded(risk, scores, images, coverage) for risk, coverage in zip(risks, coverages, strict=True)]
    return RiskCurve(tuple(coverages), tuple(bounded), aurc, excess)


def weighted_risks(
    scores: np.ndarray, correct: np.ndarray, weights: np.ndarray, coverages: Sequence[float] = COVERAGES
) -> np.ndarray:
    """Selective risks, AURC and excess AURC of the same n scores under many weightings at once.

    scores, correct: [n], no NaN, which is not looked for: a score that is NaN would pass for the lowest, an answer that
    is NaN for a right one. weights: [k, n], whole numbers: how often each example counts; no row may be 0 everywhere.
    Returns [k, coverages + 2], float64. AURC is the mean of the risk over 1, 2, ... N answered of N.
    """
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    ordered = np.asarray(scores)[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    counts = np.take(weights, order, axis=1)
    wrong = counts * (np.asarray(correct)[order] == 0)
    if len(starts) < len(order):
        counts, wrong = (np.add.reduceat(part, starts, axis=1) for part in (counts, wrong))
    answered, errors = np.cumsum(counts, axis=1), np.cumsum(wrong, axis=1)
    total, missed = answered[:, -1:], errors[:, -1:]
    rate = np.divide(wrong, counts, out=np.zeros(counts.shape), where=counts > 0)
    # Within equal scores errors grow evenly: after i answers they are slope * i + offset.
    offset = (errors - wrong) - rate * (answered - counts)
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, total.max() + 1))])
    area = (rate * counts + offset * (harmonic[answered] - harmonic[answered - counts])).sum(axis=1) / total[:, 0]
    right = total - missed
    best = ((missed - right * (harmonic[total] - harmonic[right])) / total)[:, 0]
    wanted = np.maximum(np.asarray(coverages, np.float64) * total, 1.0)
    place = _places(answered, wanted)
    risks = np.take_along_axis(rate, place, 1) + np.take_along_axis(offset, place, 1) / wanted
    return np.column_stack([np.clip(risks, 0, 1), area, area - best])


def _places(answered: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """[k, m]: of the running counts of each row, [k, n], which ascend, the first that reaches each of `wanted`, [k, m];
    a part of an answer asks for the whole one.
    """
    # Rounding must not push a coverage of 1 past the last answer.
    whole = np.ceil(wanted - 1e-9).astype(np.int64)
    # The rows one behind the other ascend too, once each begins above the end of the one before.
    apart = np.arange(len(answered))[:, None] * (int(answered.max()) + 1)
    found = np.searchsorted((answered + apart).ravel(), (whole + apart).ravel()).reshape(whole.shape)
    places: np.ndarray = found - np.arange(len(answered))[:, None] * answered.shape[1]
    return places


def _bounded(risk: Estimate, scores: np.ndarray, images: np.ndarray, coverage: float) -> Estimate:
    answered = np.argsort(-np.asarray(scores, np.float64), kind="stable")[: max(1, round(coverage * len(scores)))]
    if risk.value * len(answered) >= FEW_WRONG:
        return risk
    groups = len(np.unique(images[answered]))
    return Estimate(risk.value, *wilson(risk.value * groups, groups), FEW)
