"""Correlation of a metric with correctness, or with another metric."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from vlmlake.analysis.statistics.estimate import (
    CONFIDENCE,
    Estimate,
    require_aligned,
    require_groups,
    require_two_classes,
    require_varying,
)
from vlmlake.analysis.statistics.means import group_sums
from vlmlake.errors import VlmlakeError

FISHER = "Fisher z"
GROUPED = "Fisher z, images as groups"
LEAST = 4
"""Examples that a correlation's interval needs."""


def fisher_interval(correlation: float, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Interval of a correlation of n independent pairs by Fisher's z transform (Fisher 1921): tanh(atanh r +- z /
    sqrt(n - 3)).

    Raises VlmlakeError for fewer than four pairs.
    """
    _require_enough(n)
    half = stats.norm.ppf(0.5 + confidence / 2) / np.sqrt(n - 3)
    centre = np.arctanh(np.clip(correlation, -1 + 1e-15, 1 - 1e-15))
    return float(np.tanh(centre - half)), float(np.tanh(centre + half))


def correlation_p_value(correlation: float, n: int) -> float:
    """Two-sided p-value of a correlation of n independent pairs: Student's t with n - 2 degrees of freedom, as
    scipy.stats.pearsonr.

    Raises VlmlakeError for fewer than four pairs.
    """
    _require_enough(n)
    if abs(correlation) >= 1:
        return 0.0
    t = correlation * np.sqrt((n - 2) / (1 - correlation**2))
    return float(2 * stats.t.sf(abs(t), n - 2))


def point_biserial(values: np.ndarray, correct: np.ndarray, images: np.ndarray, name: str) -> Estimate:
    """Pearson's correlation of a metric with correctness.

    values, correct: [n], correct of 0 and 1. images: [n], the image of each example. name: of the metric, for errors.
    Interval and p-value as in `pearson`.

    Raises VlmlakeError if the metric is constant, correctness has one class only, or there are fewer than four examples
    or two images.
    """
    require_two_classes(correct)
    return pearson(values, correct, images, name)


def pearson(values: np.ndarray, others: np.ndarray, images: np.ndarray, name: str) -> Estimate:
    """Pearson's correlation with an interval on Fisher's z scale and the two-sided p-value that belongs to it.

    Where every example has an image of its own: standard error 1 / sqrt(n - 3) and the t-test, as scipy.stats.pearsonr.
    Where examples share images: the standard error of the sum over images of each example's influence (the delta method
    over clusters; Binder 1983), Student's t with one degree of freedom less than there are images.

    Raises VlmlakeError for a constant column, a NaN, fewer than four examples or fewer than two images.
    """
    require_aligned(values=values, others=others, images=images)
    require_varying(values, name)
    require_varying(others, f"what {name} is compared with")
    _require_enough(len(values))
    require_groups(images)
    (found,) = _pearsons(np.asarray(values)[:, None], others, images, [name])
    if isinstance(found, VlmlakeError):
        raise found
    return found


def point_biserials(
    values: np.ndarray, correct: np.ndarray, images: np.ndarray, names: Sequence[str]
) -> list[Estimate | VlmlakeError]:
    """`point_biserial` of every column of values, [n, m]; in place of one that it refuses, the error. names: m.

    Raises VlmlakeError if correctness has one class only, or there are fewer than four examples or two images.
    """
    require_two_classes(correct)
    require_aligned(values=values, others=correct, images=images)
    _require_enough(len(values))
    require_groups(images)
    return _pearsons(values, correct, images, names)


def _pearsons(
    values: np.ndarray, others: np.ndarray, images: np.ndarray, names: Sequence[str]
) -> list[Estimate | VlmlakeError]:
    """`pearson` of every column of values, [n, m], with others, [n], which are known to vary."""
    found: list[Estimate | VlmlakeError | None] = []
    for column, name in zip(np.asarray(values).T, names, strict=True):
        try:
            require_varying(column, name)
            found.append(None)
        except VlmlakeError as error:
            found.append(error)
    told = [number for number, refused in enumerate(found) if refused is None]
    if told:
        estimates = _estimates(np.asarray(values, np.float64)[:, told], np.asarray(others, np.float64), images)
        for number, estimate in zip(told, estimates, strict=True):
            found[number] = estimate
    return [one for one in found if one is not None]


def _estimates(values: np.ndarray, others: np.ndarray, images: np.ndarray) -> list[Estimate]:
    """Correlations of varying columns, [n, m], with `others`, [n]; see `pearson`."""
    groups, group = np.unique(images, return_inverse=True)
    n = len(values)
    x, y = stats.zscore(values, axis=0), stats.zscore(others)
    r = np.clip(y @ x / n, -1, 1)
    centre = np.arctanh(np.clip(r, -1 + 1e-15, 1 - 1e-15))
    if len(groups) == n:
        bounds = [fisher_interval(one, n) for one in r.tolist()]
        return [
            Estimate(one, *ends, FISHER, correlation_p_value(one, n))
            for one, ends in zip(r.tolist(), bounds, strict=True)
        ]
    sums = group_sums(np.concatenate([x * y[:, None], x**2, (y**2)[:, None]], axis=1), group)
    columns = len(r)
    influence = (sums[:, :columns] - r / 2 * (sums[:, columns:-1] + sums[:, -1:])) / n
    error = np.sqrt(len(groups) / (len(groups) - 1) * (influence**2).sum(axis=0)) / np.maximum(1 - r**2, 1e-15)
    half = stats.t.ppf(0.5 + CONFIDENCE / 2, len(groups) - 1) * error
    with np.errstate(divide="ignore", invalid="ignore"):
        p_values = np.where(error > 0, 2 * stats.t.sf(np.abs(centre) / error, len(groups) - 1), 0.0)
    return [
        Estimate(one, low, high, GROUPED, p)
        for one, low, high, p in zip(
            r.tolist(), np.tanh(centre - half).tolist(), np.tanh(centre + half).tolist(), p_values.tolist(), strict=True
        )
    ]


def _require_enough(n: int) -> None:
    if n < LEAST:
        raise VlmlakeError(f"a correlation's interval needs at least {LEAST} examples, got {n}")
