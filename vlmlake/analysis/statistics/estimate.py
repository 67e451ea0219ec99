"""A statistic with its interval, and the refusals that all estimators share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vlmlake.errors import VlmlakeError

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A statistic with its 95 % interval, the name of the interval's method, and a p-value where there is one."""

    value: float
    low: float
    high: float
    interval: str
    p_value: float | None = None


def require_two_classes(correct: np.ndarray) -> None:
    """Raises VlmlakeError unless there are right and wrong answers."""
    right = int(np.sum(correct))
    if right in (0, len(correct)):
        raise VlmlakeError(f"{right} of {len(correct)} answers are right: expected right and wrong ones")


def require_varying(values: np.ndarray, name: str) -> None:
    """Raises VlmlakeError for a constant column, or one that holds no number somewhere. name: for the error."""
    if not np.isfinite(values).all():
        raise VlmlakeError(f"{name} is no number for {int((~np.isfinite(values)).sum())} of {len(values)} examples")
    if len(values) and np.ptp(values) == 0:
        raise VlmlakeError(f"{name} is constant over all {len(values)} examples: it has no correlation with anything")


def require_groups(images: np.ndarray, least: int = 2) -> None:
    """Raises VlmlakeError for fewer images than an interval that is grouped by image needs."""
    there = len(np.unique(images))
    if there < least:
        raise VlmlakeError(f"{there} images, expected at least {least}: an interval needs images to compare")
