"""Means and differences of means, with standard errors that take the examples of one image together."""

from __future__ import annotations

from collections.abc import Sequence

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
    """Mean with its interval: the standard error of a sum over images (Liang and Zeger 1986, with the factor
    g / (g - 1) for g images), Student's t with g - 1 degrees of freedom.

    values: [n]. images: [n], the image of each example. name: of the metric, for the error. Where every image has one
    example this is the usual interval of a mean, as statsmodels' DescrStatsW.tconfint_mean.

    Raises VlmlakeError for values that are no numbers, or fewer than two images.
    """
    (found,) = means(np.asarray(values)[:, None], images, [name])
    if isinstance(found, VlmlakeError):
        raise found
    return found


def means(values: np.ndarray, images: np.ndarray, names: Sequence[str]) -> list[Estimate | VlmlakeError]:
    """`mean` of every column of values, [n, m]; in place of one that it refuses, the error. names: m.

    Raises VlmlakeError for fewer than two images.
    """
    require_groups(images)
    values = np.asarray(values, np.float64)
    n = len(values)
    groups, group = np.unique(images, return_inverse=True)
    centre = values.mean(axis=0)
    residuals = group_sums(values - centre, group) / n
    error = np.sqrt(len(groups) / (len(groups) - 1) * (residuals**2).sum(axis=0))
    half = stats.t.ppf(0.5 + CONFIDENCE / 2, len(groups) - 1) * error
    method = STUDENT if len(groups) == n else GROUPED
    missing = (~np.isfinite(values)).sum(axis=0)
    return [
        VlmlakeError(f"{name} is no number for {lost} of {n} examples")
        if lost
        else Estimate(float(value), float(value - width), float(value + width), method)
        for name, lost, value, width in zip(names, missing, centre, half, strict=True)
    ]


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


def group_sums(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Sums over the rows of each group. values: [n, m]. group: [n], int, from 0 without holes. Returns [groups, m]."""
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    sums: np.ndarray = np.add.reduceat(values[order], starts, axis=0)
    return sums


def _clustered(influence: np.ndarray, images: np.ndarray) -> tuple[float, int, str]:
    """Standard error of a statistic whose influences are given, its degrees of freedom, the interval's method."""
    require_groups(images)
    groups, group = np.unique(images, return_inverse=True)
    count = len(groups)
    error = np.sqrt(count / (count - 1) * (np.bincount(group, influence) ** 2).sum())
    return float(error), count - 1, STUDENT if count == len(influence) else GROUPED
