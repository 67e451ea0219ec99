"""L1 logistic regressions over one feature matrix, many at once."""

from __future__ import annotations

import numpy as np
from scipy.special import expit

from vlmlake.analysis.probes.folds import fold_numbers, grouped_folds
from vlmlake.analysis.probes.standardised import Standardised
from vlmlake.analysis.statistics.roc import weighted_auroc
from vlmlake.errors import VlmlakeError

MOST_ITERATIONS = 5000
TOLERANCE = 0.04
"""How far the conditions of the minimum may be from holding; the penalty's own slope is 1."""
GRID = (0.01, 0.03, 0.1, 0.3, 1.0)
"""Of C in scikit-learn's sense: the weight of the summed log-losses beside |w|_1."""
INNER_FOLDS = 4


def l1_weights(features: np.ndarray, correct: np.ndarray, images: np.ndarray, seed: int) -> tuple[np.ndarray, float]:
    """Weights of an L1 logistic regression on standardised features, its C chosen out of GRID on folds by image.

    features: [n, d]. correct: [n] of 0 and 1. images: [n]. Returns [d], float64, and C: that after which
    the out-of-fold AUROC falls for the first time, the smaller of equal ones.

    Raises VlmlakeError for a single class, too few errors or images, or a feature that is no number.
    """
    folds = grouped_folds(correct, images, INNER_FOLDS, seed)
    numbers, training = fold_numbers(folds), np.zeros((len(folds), len(correct)), bool)
    for row, (train, _) in zip(training, folds, strict=True):
        row[train] = True
    even, best, largest = np.ones((1, len(correct))), GRID[0], -np.inf
    for strength in GRID:
        _, logits = l1_logistic(features, correct, training, np.full(len(folds), strength))
        scores = logits[numbers, np.arange(len(correct))]
        quality = weighted_auroc(scores, correct, even, numbers)[0]
        if np.isnan(quality):
            raise VlmlakeError("no inner fold holds right and wrong answers together: too few errors to choose C")
        # The weaker the penalty the longer a fit takes: past the best one there is nothing to look for.
        if quality < largest:
            break
        if quality > largest:
            best, largest = strength, quality
    weights, _ = l1_logistic(features, correct, np.ones((1, len(correct)), bool), np.array([best]))
    return weights[0].astype(np.float64), best


def l1_logistic(
    features: np.ndarray, correct: np.ndarray, training: np.ndarray, strengths: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Minimise |w|_1 + C times the summed log-losses, intercept free, for k training parts [k, n] and strengths C [k].

    Features are standardised inside each part. Accelerated proximal gradient steps (FISTA, Beck and Teboulle 2009) that
    start anew where they would turn back (O'Donoghue and Candes 2015), until the conditions of the minimum hold to
    TOLERANCE. Returns weights [k, d], of standardised features, and logits [k, n], float32.

    Raises VlmlakeError for a part with one class, a feature that is no number, or no convergence.
    """
    rows, right = training.sum(axis=1), (training * correct).sum(axis=1)
    if ((right == 0) | (right == rows)).any():
        raise VlmlakeError("a training part has one class only: expected right and wrong answers")
    given, parts = Standardised.of(features, training), np.arange(len(training))
    masks, labels = training.astype(np.float32), correct.astype(np.float32)
    losses = strengths.astype(np.float32)[:, None]
    step = 1 / (losses * _curvature(given, masks))
    base = np.log(right / (rows - right)).astype(np.float32)
    point = np.concatenate([np.zeros_like(given.mean), base[:, None]], axis=1)
    ahead, momentum = point, np.ones((len(parts), 1), np.float32)
    for _ in range(MOST_ITERATIONS):
        residuals = masks * (expit(given.logits(ahead[:, :-1], ahead[:, -1], parts)) - labels)
        moved = np.empty_like(point)
        moved[:, :-1] = ahead[:, :-1] - step * losses * given.gradients(residuals, parts)
        moved[:, :-1] = np.sign(moved[:, :-1]) * np.maximum(abs(moved[:, :-1]) - step, 0)
        moved[:, -1] = ahead[:, -1] - (step * losses)[:, 0] * residuals.sum(axis=1)
        if (abs(ahead - moved) <= TOLERANCE * step).all():
            return moved[:, :-1], given.logits(moved[:, :-1], moved[:, -1], parts)
        change = moved - point
        turned = ((ahead - moved) * change).sum(axis=1, keepdims=True) > 0
        following = np.where(turned, 1, (1 + np.sqrt(1 + 4 * momentum**2)) / 2)
        ahead = moved + np.where(turned, 0, (momentum - 1) / following) * change
        point, momentum = moved, following.astype(np.float32)
    raise VlmlakeError(f"an L1 logistic regression has not converged in {MOST_ITERATIONS} iterations")


def _curvature(given: Standardised, masks: np.ndarray) -> np.ndarray:
    """[k, 1], a bound of the largest second derivative of each part's log-losses: a quarter of the largest eigenvalue
    of its standardised Gram matrix, or of the number of rows for the intercept, by power iterations and a margin.
    """
    parts = np.arange(len(masks))
    vectors = np.random.default_rng(0).standard_normal(given.mean.shape, dtype=np.float32)
    for _ in range(20):
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors = given.gradients(masks * given.logits(vectors, np.zeros(len(masks), np.float32), parts), parts)
    largest = np.maximum(np.linalg.norm(vectors, axis=1), masks.sum(axis=1))
    found: np.ndarray = (1.1 * largest / 4).astype(np.float32)[:, None]
    return found
