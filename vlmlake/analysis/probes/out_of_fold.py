"""Out-of-fold scores of one feature matrix: outer folds, inner folds of each training part, and calibrated
probabilities, all solved together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from vlmlake.analysis.probes.calibration import platt
from vlmlake.analysis.probes.folds import Fold, fold_numbers, grouped_folds
from vlmlake.analysis.probes.logistic import logistic
from vlmlake.analysis.statistics.roc import weighted_auroc
from vlmlake.errors import VlmlakeError


@dataclass(frozen=True)
class Design:
    """Which examples train and test which regressions.

    correct: [n] of 0 and 1. folds: the outer ones. inner: of each outer training part, indices into all examples.
    shuffled: [n], the labels permuted, and shuffled_folds: their own; none without a baseline. unlucky: why there is
    none though one was asked for.
    """

    correct: np.ndarray
    folds: tuple[Fold, ...]
    inner: tuple[tuple[Fold, ...], ...]
    shuffled: np.ndarray | None = None
    shuffled_folds: tuple[Fold, ...] = ()
    unlucky: VlmlakeError | None = None

    def only(self, fold: int) -> Design:
        """What trains and tests one of the outer folds."""
        return Design(self.correct, (self.folds[fold],), (self.inner[fold],))

    @property
    def strata(self) -> np.ndarray:
        """[n], the fold that tests each example."""
        return fold_numbers(list(self.folds))

    @property
    def shuffled_strata(self) -> np.ndarray:
        """[n], the same for the shuffled labels."""
        return fold_numbers(list(self.shuffled_folds))


def design(
    correct: np.ndarray, images: np.ndarray, folds: int, inner_folds: int, seed: int, baseline: bool = False
) -> Design:
    """Folds grouped by image, in them inner folds grouped by image; with a shuffled-label baseline if asked for, and if
    the shuffled labels can be cut into folds.

    correct: [n] of 0 and 1; images: [n].

    Raises VlmlakeError for a single class, fewer images than folds, or too few errors.
    """
    outer = grouped_folds(correct, images, folds, seed)
    inner = []
    for train, _ in outer:
        cut = grouped_folds(correct[train], images[train], inner_folds, seed)
        inner.append(tuple((train[fit], train[held]) for fit, held in cut))
    if not baseline:
        return Design(correct, tuple(outer), tuple(inner))
    shuffled = np.random.default_rng(seed).permutation(correct)
    try:
        cut = grouped_folds(shuffled, images, folds, seed)
    except VlmlakeError as error:
        return Design(correct, tuple(outer), tuple(inner), unlucky=error)
    return Design(correct, tuple(outer), tuple(inner), shuffled, tuple(cut))


@dataclass(frozen=True)
class Scored:
    """What regressions say of examples that they were not trained on.

    logits: [n], float64. probabilities: [n], after Platt's sigmoid, fitted on the inner out-of-fold logits of the
    training part. inner_probabilities: [folds, n], those inner logits after the same sigmoid, NaN at the examples that
    the fold tests. inner_auroc: [folds], of the inner logits. shuffled: [n], logits of the shuffled-label baseline.
    """

    logits: np.ndarray
    probabilities: np.ndarray
    inner_probabilities: np.ndarray
    inner_auroc: np.ndarray
    shuffled: np.ndarray | None = None


def out_of_fold(features: np.ndarray, plan: Design) -> Scored:
    """L2 logistic regressions of every part of the plan, standardised inside it, over one feature matrix.

    features: [n, d], of any float type.

    Raises VlmlakeError if a feature is no number somewhere, or if no inner fold holds both classes.
    """
    n = len(plan.correct)
    cuts = [*plan.folds, *(fold for inner in plan.inner for fold in inner), *plan.shuffled_folds]
    training = np.zeros((len(cuts), n), bool)
    for row, (train, _) in zip(training, cuts, strict=True):
        row[train] = True
    labels = np.repeat(plan.correct[None], len(cuts), axis=0)
    if plan.shuffled is not None:
        labels[len(cuts) - len(plan.shuffled_folds) :] = plan.shuffled
    found = iter(logistic(features, labels, training).logits.astype(np.float64))
    logits = _tested(plan.folds, [next(found) for _ in plan.folds])
    probabilities, quality = np.full(n, np.nan), np.empty(len(plan.folds))
    inside = np.full((len(plan.folds), n), np.nan)
    for number, ((train, test), inner) in enumerate(zip(plan.folds, plan.inner, strict=True)):
        held = _tested(inner, [next(found) for _ in inner], n)
        strata = np.full(n, -1)
        for at, (_, part) in enumerate(inner):
            strata[part] = at
        even = np.ones((1, len(train)))
        quality[number] = weighted_auroc(held[train], plan.correct[train], even, strata[train])[0]
        slope, offset = platt(held[train], plan.correct[train])
        probabilities[test] = expit(slope * logits[test] + offset)
        inside[number] = expit(slope * held + offset)
    if np.isnan(quality).any():
        raise VlmlakeError("no inner fold holds right and wrong answers together: too few errors to choose a layer")
    shuffled = _tested(plan.shuffled_folds, list(found)) if plan.shuffled is not None else None
    return Scored(logits, probabilities, inside, quality, shuffled)


def out_of_fold_apart(features: np.ndarray, plan: Design) -> Scored:
    """The same where each outer fold, its tested examples and its training part, has features of its own.

    features: [folds, n, d]. Without the shuffled-label baseline.

    Raises VlmlakeError as `out_of_fold`.
    """
    parts = [out_of_fold(own, plan.only(fold)) for fold, own in enumerate(features)]
    return Scored(
        _tested(plan.folds, [part.logits for part in parts]),
        _tested(plan.folds, [part.probabilities for part in parts]),
        np.concatenate([part.inner_probabilities for part in parts]),
        np.concatenate([part.inner_auroc for part in parts]),
    )


def _tested(folds: tuple[Fold, ...], logits: list[np.ndarray], n: int | None = None) -> np.ndarray:
    """[n], of each example the logit of the fold that tests it; NaN where none does."""
    scores = np.full(len(logits[0]) if n is None else n, np.nan)
    for (_, test), column in zip(folds, logits, strict=True):
        scores[test] = column[test]
    return scores
