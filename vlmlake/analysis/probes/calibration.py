"""Scores to probabilities: Platt's sigmoid."""

from __future__ import annotations

import numpy as np
from scipy.special import expit

from vlmlake.errors import VlmlakeError

MOST_STEPS = 100
LARGEST_GRADIENT = 1e-7
"""Per example; the log-losses are then exact to far below what they are compared at."""


def platt(scores: np.ndarray, correct: np.ndarray) -> tuple[float, float]:
    """Slope and offset of p(right) = 1 / (1 + exp(-(slope score + offset))), by maximum likelihood on Platt's targets.

    scores: [n], of examples that the scoring model was not trained on. correct: [n] of 0 and 1. Targets are
    (N+ + 1) / (N+ + 2) for right and 1 / (N- + 2) for wrong answers (Platt 1999, section 2.2), so that scores that part
    the classes still have finite probabilities; minimised by Newton's method with backtracking (Lin, Lin and Weng
    2007).

    Raises VlmlakeError if a score is no number.
    """
    scores = np.asarray(scores, np.float64)
    if not np.isfinite(scores).all():
        raise VlmlakeError(f"{int((~np.isfinite(scores)).sum())} of {len(scores)} scores are no number")
    right = correct.astype(bool)
    targets = np.where(right, (right.sum() + 1) / (right.sum() + 2), 1 / ((~right).sum() + 2))
    centre, spread = scores.mean(), scores.std() or 1.0
    design = np.stack([(scores - centre) / spread, np.ones(len(scores))])
    point = np.array([0.0, np.log((right.sum() + 1) / ((~right).sum() + 1))])

    def loss(at: np.ndarray) -> float:
        logits = at @ design
        return float(np.logaddexp(0, logits).sum() - targets @ logits)

    for _ in range(MOST_STEPS):
        probabilities = expit(point @ design)
        gradient = design @ (probabilities - targets)
        if abs(gradient).max() <= LARGEST_GRADIENT * len(scores):
            break
        hessian = (design * (probabilities * (1 - probabilities))) @ design.T + 1e-12 * np.eye(2)
        step, now = -np.linalg.solve(hessian, gradient), loss(point)
        length = 1.0
        while loss(point + length * step) > now + 1e-4 * length * (gradient @ step) and length > 1e-10:
            length /= 2
        point = point + length * step
    slope, offset = point[0] / spread, point[1] - point[0] * centre / spread
    return float(slope), float(offset)
