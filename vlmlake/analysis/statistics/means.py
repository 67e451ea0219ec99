"""Means and differences of means, with standard errors that take the examples of one image together."""

from __future__ import annotations

import numpy as np
from scipy import stats

from vlmlake.analysis.statistics.estimate import (
    CONFIDENCE,
    Estimate,
    require_groups,
    require_two_classes,
    require_varying,
)
from vlmlake.errors import VlmlakeError

STUDENT = "Student t"
GROUPED = "Student t, images as groups"


def mean(values: np.ndarray, images: np.ndarray, name: str) -> Estimate:
    """Mean of a metric with the cluster-robust interval (Liang and Zeger 1986): standard error of the sum over images
    of each example's influence, Student's t with one degree of freedom less than there are images.

    values: [n], in the metric's unit. images: [n], the image of each example. name: of the metric, for the error. Where
    every example has an image of its own it is the usual t interval; a constant has an interval without width.

    Raises VlmlakeError if a value is no number or there are fewer than two images.
    """
    require_groups(images)
    _require_numbers(values, name)
    values = np.asarray(values, np.float64)
    centre = float(values.mean())
    error, degrees, method = _clustered((values - centre) / len(values), images)
    half = stats.t.ppf(0.5 + CONFIDENCE / 2, degrees) * error
    return Estimate(centre, centre - half, centre + half, method)


def mean_difference(values: np.ndarray, correct: np.ndarray, images: np.ndarray, name: str) -> Estimate:
    """Mean over right answers minus mean over wrong ones, with the cluster-robust interval and its two-sided p-value.

    values: [n]. correct: [n] of 0 and 1. images: [n]; right and wrong answers of one image count together (the delta
    method over clusters; statsmodels' OLS with cov_type="cluster", but for its factor (n - 1) / (n - 2)). name: of the
    metric, for the error.

    Raises VlmlakeError if the metric is constant or no number somewhere, correctness has one class only or there are
    fewer than two images.
    """
    require_varying(values, name)
    require_two_classes(correct)
    values, right = np.asarray(values, np.float64), np.asarray(correct) == 1
    means = values[right].mean(), values[~right].mean()
    difference = float(means[0] - means[1])
    influence = np.where(right, (values - means[0]) / right.sum(), -(values - means[1]) / (~right).sum())
    error, degrees, method = _clustered(influence, images)
    half = stats.t.ppf(0.5 + CONFIDENCE / 2, degrees) * error
    p_value = float(2 * stats.t.sf(abs(difference) / error, degrees)) if error > 0 else 0.0
    return Estimate(difference, difference - half, difference + half, method, p_value)


def _require_numbers(values: np.ndarray, name: str) -> None:
    if not np.isfinite(values).all():
        raise VlmlakeError(f"{name} is no number for {int((~np.isfinite(values)).sum())} of {len(values)} examples")


def _clustered(influence: np.ndarray, images: np.ndarray) -> tuple[float, int, str]:
    """Standard error of a statistic whose influences are given, its degrees of freedom, the interval's method."""
    require_groups(images)
    groups, group = np.unique(images, return_inverse=True)
    count = len(groups)
    error = np.sqrt(count / (count - 1) * (np.bincount(group, influence) ** 2).sum())
    return float(error), count - 1, STUDENT if count == len(influence) else GROUPED
