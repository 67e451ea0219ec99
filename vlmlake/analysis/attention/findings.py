"""Rows of the result table: each metric's mean and its correlation with correctness, by block and by head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vlmlake.analysis.population import Population
from vlmlake.analysis.statistics.correlation import pearson, point_biserials
from vlmlake.analysis.statistics.estimate import Estimate
from vlmlake.analysis.statistics.means import means
from vlmlake.errors import VlmlakeError

MEAN_OF_LAYERS = "mean"

Row = dict[str, Any]


def layer_rows(
    chosen: Population, metric: str, values: np.ndarray, layers: Sequence[str], position: str | None
) -> list[Row]:
    """Of each block, and of each example's mean over them: the metric's mean and its correlation with correctness.

    values: [len(chosen), L]. A block that holds NaN alone has no rows: there the metric is not defined.
    """
    there = ~np.isnan(values).all(axis=0)
    kept = [layer for layer, here in zip(layers, there, strict=True) if here]
    if not kept:
        return []
    columns = np.concatenate([values[:, there], values[:, there].mean(axis=1, keepdims=True)], axis=1)
    labels = [{"layer": layer, "position": position} for layer in (*kept, MEAN_OF_LAYERS)]
    names = [f"{metric} at {layer}" for layer in kept] + [f"the mean of {metric}"]
    return _correlations(chosen, metric, columns, names, labels) + _means(chosen, metric, columns, names, labels)


def confidence_row(chosen: Population, metric: str, values: np.ndarray, position: str) -> Row:
    """Correlation of each example's mean over blocks with the log-prob of its answer's first token. values:
    [len(chosen), L].
    """
    column, confidence = values.mean(axis=1), chosen.data["first_log_prob"].values
    return chosen.estimated(
        metric,
        "pearson_first_log_prob",
        lambda: pearson(column, confidence, chosen.images, f"the mean of {metric}"),
        layer=MEAN_OF_LAYERS,
        position=position,
    )


def head_rows(
    chosen: Population, metric: str, values: np.ndarray, layers: Sequence[str], position: str, correlated: bool
) -> list[Row]:
    """Of each head of each block: the metric's mean, and where it is asked for its correlation with correctness.

    values: [len(chosen), L, H].
    """
    columns = values.reshape(len(values), -1)
    places = [(layer, head) for layer in layers for head in range(values.shape[2])]
    labels = [{"layer": layer, "position": position, "head": head} for layer, head in places]
    names = [f"{metric} of head {head} at {layer}" for layer, head in places]
    rows = _means(chosen, metric, columns, names, labels)
    return rows + _correlations(chosen, metric, columns, names, labels) if correlated else rows


def _correlations(
    chosen: Population, metric: str, columns: np.ndarray, names: Sequence[str], labels: Sequence[Row]
) -> list[Row]:
    found = _each(lambda: point_biserials(columns, chosen.correct, chosen.images, names), len(names))
    return _rows(chosen, metric, "point_biserial", found, labels)


def _means(
    chosen: Population, metric: str, columns: np.ndarray, names: Sequence[str], labels: Sequence[Row]
) -> list[Row]:
    return _rows(chosen, metric, "mean", _each(lambda: means(columns, chosen.images, names), len(names)), labels)


def _each(estimates: Callable[[], list[Estimate | VlmlakeError]], columns: int) -> list[Estimate | VlmlakeError]:
    """What an estimator says of each column; where it refuses all of them, its reason for each."""
    try:
        return estimates()
    except VlmlakeError as error:
        return [error] * columns


def _rows(
    chosen: Population,
    metric: str,
    statistic: str,
    found: Sequence[Estimate | VlmlakeError],
    labels: Sequence[Row],
) -> list[Row]:
    return [
        chosen.refusal(metric, statistic, one, **label)
        if isinstance(one, VlmlakeError)
        else chosen.row(metric, statistic, one, **label)
        for one, label in zip(found, labels, strict=True)
    ]
