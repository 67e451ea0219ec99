"""A statistic with its interval, and the refusals that all estimators share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vlmlake.errors import VlmlakeError

CONFIDENCE = 0.95
ROUNDING = 1e-13
"""A column whose spread is below this share of its size is constant but for rounding (scipy.stats.pearsonr warns)."""


@dataclass(frozen=True)
class Estimate:
    """A statistic with its 95 % interval, the name of the interval's method, and a p-value where there is one."""

    value: float
    low: float
    high: float
    interval: str
    p_value: float | None = None


def has_spread(found: Estimate) -> bool:
    """Whether an interval has a width beyond rounding: resamples that are all alike give it none."""
    return found.high - found.low > ROUNDING * max(1.0, abs(found.value))


def require_two_classes(correct: np.ndarray) -> None:
    """Raises VlmlakeError unless there are right (1) and wrong (0) answers, and nothing else."""
    require_binary(correct, "correctness")
    right = int(np.sum(correct))
    if right in (0, len(correct)):
        raise VlmlakeError(f"{right} of {len(correct)} answers are right: expected right and wrong ones")


def require_binary(values: np.ndarray, name: str) -> None:
    """Raises VlmlakeError for a value that is neither 0 nor 1. name: for the error."""
    other = ~np.isin(values, (0, 1))
    if other.any():
        raise VlmlakeError(f"{name} is neither 0 nor 1 for {int(other.sum())} of {len(values)} examples")


def require_numbers(values: np.ndarray, name: str) -> None:
    """Raises VlmlakeError for no values at all, or one that is NaN or infinite. name: for the error."""
    if not len(values):
        raise VlmlakeError(f"{name} of no examples: expected at least 1")
    none = ~np.isfinite(values)
    if none.any():
        raise VlmlakeError(f"{name} is no number for {int(none.sum())} of {len(values)} examples")


def require_varying(values: np.ndarray, name: str) -> None:
    """Raises VlmlakeError for a constant column, or one that holds no number somewhere. name: for the error."""
    require_numbers(values, name)
    spread = np.asarray(values, np.float64) - np.mean(values, dtype=np.float64)
    if np.ptp(values) == 0 or np.linalg.norm(spread) < ROUNDING * np.linalg.norm(values):
        raise VlmlakeError(f"{name} is constant over all {len(values)} examples: it has no correlation with anything")


def require_aligned(**columns: np.ndarray) -> None:
    """Raises VlmlakeError unless all columns, given by their names, have one value per example."""
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{length} {name}" for name, length in lengths.items())
        raise VlmlakeError(f"{told}: expected one of each per example")


def require_groups(images: np.ndarray, least: int = 2) -> None:
    """Raises VlmlakeError for fewer images than an interval that is grouped by image needs."""
    there = len(np.unique(images))
    if there < least:
        raise VlmlakeError(f"{there} images, expected at least {least}: an interval needs images to compare")


def require_groups_of_classes(correct: np.ndarray, images: np.ndarray, least: int = 2) -> int:
    """How many images the rarer answer, right or wrong, is found in.

    correct: [n] of 0 and 1, both there. images: [n].

    Raises VlmlakeError for fewer of them than `least`.
    """
    found = {name: len(np.unique(images[correct == one])) for one, name in ((1, "right"), (0, "wrong"))}
    name = min(found, key=lambda one: found[one])
    if found[name] < least:
        raise VlmlakeError(
            f"{found[name]} images with {name} answers, expected at least {least}: an interval needs images to compare"
        )
    return found[name]
