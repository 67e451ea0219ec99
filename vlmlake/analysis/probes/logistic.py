"""L2 logistic regressions of many training parts and labels over one feature matrix, solved together."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from vlmlake.analysis.probes.preconditioner import Spectrum, is_steep, spectrum
from vlmlake.analysis.probes.standardised import Standardised
from vlmlake.errors import VlmlakeError

TOLERANCE = 1e-4
STRICTER = 0.2
"""With a preconditioner what is left of the gradient lies along directions of small curvature, where the same gradient
is further from the minimum. At this share of it AUROCs of 4,096 features and 3,090 examples are within 0.0006 of the
minimum's; scikit-learn's own are within 0.003.
"""
MEMORY = 10
MOST_ITERATIONS = 2000
WOLFE = 0.9
"""A step is taken when the slope at its end is at most this share of the slope at its start."""
MOST_TRIALS = 30


@dataclass(frozen=True)
class Fitted:
    """k logistic regressions over n examples and d features.

    logits: [k, n], float32, of every example, whether it was trained on or not. weights: [k, d], float32, of the
    features as standardised on each regression's own training rows. intercepts: [k]. iterations: [k], until each had
    converged.
    """

    logits: np.ndarray
    weights: np.ndarray
    intercepts: np.ndarray
    iterations: np.ndarray


def logistic(features: np.ndarray, labels: np.ndarray, training: np.ndarray, tolerance: float = TOLERANCE) -> Fitted:
    """Minimise 1/2 |w|^2 + sum of log-losses for k problems, each with its own training rows, labels and
    standardisation: scikit-learn's make_pipeline(StandardScaler(), LogisticRegression()) at C = 1.

    features: [n, d], of any float type. labels: [k, n] of 0 and 1. training: [k, n], bool. tolerance: of the largest
    gradient component, for the mean over training rows, as scikit-learn's tol for lbfgs.

    Method: L-BFGS (Nocedal and Wright 2006, algorithm 7.4) from 0, with a line search on the slope, which needs no
    matrix product. Where few directions hold much of the features' variance, a Nystrom preconditioner of theirs is the
    first metric. All problems share each product with the feature matrix; those that have converged leave. With more
    independent features than examples scikit-learn's default tolerance stops well before the minimum: so does this, and
    at the same place.

    Raises VlmlakeError if a feature is no number somewhere, a training part has one class, or a problem has not
    converged after MOST_ITERATIONS.
    """
    right = (labels * training).sum(axis=1)
    rows = training.sum(axis=1)
    if ((right == 0) | (right == rows)).any():
        raise VlmlakeError("a training part has one class only: expected right and wrong answers")
    given = Standardised.of(features, training)
    scale = given.scale.mean(axis=0)
    leading = spectrum(given.centred, scale) if is_steep(given.centred, scale) else None
    enough = tolerance * rows * (STRICTER if leading else 1)
    return _Search(given, leading, labels.astype(np.float32), training, enough).run()


class _Search:
    """The state of the search: of the problems that have not converged (`active`), and the answers of all."""

    def __init__(
        self,
        given: Standardised,
        leading: Spectrum | None,
        labels: np.ndarray,
        training: np.ndarray,
        enough: np.ndarray,
    ) -> None:
        k, d = given.mean.shape
        self.given, self.leading, self.enough = given, leading, enough
        self.active = np.arange(k)
        self.labels, self.masks = labels, training.astype(np.float32)
        self.point = np.zeros((k, d + 1), np.float32)
        self.logits = np.zeros((k, len(given.centred)), np.float32)
        self.pairs: deque[tuple[np.ndarray, np.ndarray, np.ndarray]] = deque(maxlen=MEMORY)
        self.found = np.empty((k, d + 1), np.float32)
        self.iterations = np.zeros(k, int)

    def run(self) -> Fitted:
        probabilities = expit(self.logits)
        gradient = self._gradient(probabilities)
        for iteration in range(MOST_ITERATIONS):
            done = abs(gradient).max(axis=1) <= self.enough[self.active]
            # A problem that has converged may go on with the others; leaving costs a copy of the memory.
            if done.all() or 4 * done.sum() >= len(done):
                self.found[self.active[done]] = self.point[done]
                self.iterations[self.active[done]] = iteration
                probabilities, gradient = self._leave(~done, probabilities, gradient)
            if not len(self.active):
                return self._fitted()
            direction = self._direction(gradient, probabilities)
            along = self.given.logits(direction[:, :-1], direction[:, -1], self.active)
            step, probabilities = self._step(direction, along)
            self.point += step * direction
            self.logits += step * along
            before, gradient = gradient, self._gradient(probabilities)
            change = gradient - before
            moved = step * direction
            self.pairs.append((moved, change, _inverse(_dot(moved, change))))
        raise VlmlakeError(
            f"{len(self.active)} logistic regressions have not converged in {MOST_ITERATIONS} iterations"
        )

    def _fitted(self) -> Fitted:
        weights, intercepts = self.found[:, :-1], self.found[:, -1]
        logits = self.given.logits(weights, intercepts, np.arange(len(self.found)))
        return Fitted(logits, weights, intercepts, self.iterations)

    def _gradient(self, probabilities: np.ndarray) -> np.ndarray:
        residuals = self.masks * (probabilities - self.labels)
        gradient = np.empty_like(self.point)
        gradient[:, :-1] = self.given.gradients(residuals, self.active) + self.point[:, :-1]
        gradient[:, -1] = residuals.sum(axis=1, dtype=np.float64)
        return gradient

    def _direction(self, gradient: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        """Downhill: the two-loop recursion, all problems at once."""
        direction, shares = -gradient, []
        for moved, change, inverse in reversed(self.pairs):
            share = inverse * _dot(moved, direction)
            direction -= share * change
            shares.append(share)
        direction = self._metric(direction, probabilities)
        if self.pairs:
            _, change, inverse = self.pairs[-1]
            ratio = _inverse(inverse * _dot(change, self._metric(change, probabilities)))
            direction *= np.where(ratio > 0, ratio, 1)
        elif self.leading is None:
            direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        for (moved, change, inverse), share in zip(self.pairs, reversed(shares), strict=True):
            direction += (share - inverse * _dot(change, direction)) * moved
        return direction

    def _metric(self, vectors: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        """An approximate inverse of the Hessian, with the mean curvature of each problem's log-losses."""
        if self.leading is None:
            return vectors
        bend = (self.masks * probabilities * (1 - probabilities)).sum(axis=1)
        solved = np.empty_like(vectors)
        solved[:, :-1] = self.leading.solve(vectors[:, :-1], bend / self.masks.shape[1])
        solved[:, -1] = vectors[:, -1] / np.maximum(bend, 1e-6)
        return solved

    def _step(self, direction: np.ndarray, along: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How far to go, [k, 1], and the probabilities there: Newton steps on the slope, kept in a bracket."""
        weights, moving = self.point[:, :-1], direction[:, :-1]
        ridge, ridge_bend = _dot(weights, moving)[:, 0], _dot(moving, moving)[:, 0]
        masked = self.masks * along

        def slope(probabilities: np.ndarray, step: np.ndarray) -> np.ndarray:
            loss = np.einsum("kn,kn->k", masked, probabilities - self.labels)
            found: np.ndarray = loss.astype(np.float64) + ridge + step * ridge_bend
            return found

        k = len(along)
        step, low, high = np.ones(k), np.zeros(k), np.full(k, np.inf)
        start = slope(expit(self.logits), np.zeros(k))
        for _ in range(MOST_TRIALS):
            probabilities = expit(self.logits + step[:, None].astype(np.float32) * along)
            now = slope(probabilities, step)
            wrong = abs(now) > WOLFE * abs(start)
            if not wrong.any():
                break
            low, high = np.where(now < 0, step, low), np.where(now > 0, step, high)
            bend = np.einsum("kn,kn,kn->k", masked, along, probabilities * (1 - probabilities)) + ridge_bend
            newton = step - now / bend
            safe = np.where(np.isinf(high), np.minimum(newton, 10 * step), newton)
            inside = (safe > low) & (safe < high)
            step = np.where(wrong, np.where(inside, safe, (low + np.minimum(high, 10 * step)) / 2), step)
        return step[:, None].astype(np.float32), probabilities

    def _leave(
        self, stay: np.ndarray, probabilities: np.ndarray, gradient: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        self.active, self.point, self.logits = self.active[stay], self.point[stay], self.logits[stay]
        self.labels, self.masks = self.labels[stay], self.masks[stay]
        kept = [(moved[stay], change[stay], inverse[stay]) for moved, change, inverse in self.pairs]
        self.pairs = deque(kept, maxlen=MEMORY)
        return probabilities[stay], gradient[stay]


def _inverse(products: np.ndarray) -> np.ndarray:
    """1 / products; 0 where rounding has left nothing, so that a pair of a problem that stands still has no say."""
    tiny = np.finfo(np.float32).tiny
    found = np.zeros_like(products)
    np.divide(1, products, out=found, where=products > tiny / np.finfo(np.float32).eps)
    return found


def _dot(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Row by row, [k, 1]."""
    products: np.ndarray = np.einsum("kd,kd->k", left, right)
    return products[:, None]
