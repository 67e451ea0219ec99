"""Folds that keep all questions of an image together."""

from __future__ import annotations

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from vlmlake.analysis.statistics.estimate import require_two_classes
from vlmlake.errors import VlmlakeError

Fold = tuple[np.ndarray, np.ndarray]
"""Indices of the training part and of the test part."""


def grouped_folds(correct: np.ndarray, images: np.ndarray, folds: int, seed: int) -> list[Fold]:
    """Train and test indices; all examples of an image fall into one fold, classes are balanced as far as that allows
    (scikit-learn's StratifiedGroupKFold).

    correct: [n] of 0 and 1. images: [n], the image of each example.

    Raises VlmlakeError if a class has fewer members than folds, if there are fewer images than folds, or if a training
    part is left with one class.
    """
    require_two_classes(correct)
    rarest = int(min(correct.sum(), len(correct) - correct.sum()))
    if rarest < folds:
        raise VlmlakeError(
            f"{rarest} answers of one class cannot be spread over {folds} folds: too few errors to probe"
        )
    there = len(set(images))
    if there < folds:
        raise VlmlakeError(f"{there} images cannot be cut into {folds} folds: expected at least one image a fold")
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    cut = list(splitter.split(np.zeros(len(correct)), correct, images))
    for train, _ in cut:
        if len(set(correct[train])) == 1:
            raise VlmlakeError(f"{folds} folds of {there} images leave a training part with one class: too few errors")
    return cut


def fold_numbers(folds: list[Fold]) -> np.ndarray:
    """For every example the number of the fold that tests it. Returns [n], int."""
    numbers = np.empty(sum(len(test) for _, test in folds), int)
    for number, (_, test) in enumerate(folds):
        numbers[test] = number
    return numbers
