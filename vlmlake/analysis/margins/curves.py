"""Rows of curves over layers: their means by correctness, how they go with it, and the layers that they single out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from vlmlake.analysis.margins.layers import crossing, onset, peak
from vlmlake.analysis.population import Population, joined
from vlmlake.analysis.result import Row
from vlmlake.analysis.statistics.bootstrap import drawn, percentiles
from vlmlake.analysis.statistics.correlation import point_biserial
from vlmlake.analysis.statistics.estimate import Estimate, require_varying
from vlmlake.analysis.statistics.means import mean, mean_difference
from vlmlake.analysis.statistics.roc import auroc
from vlmlake.errors import VlmlakeError

ROUNDING = 1e-4
"""Logits or nats that tell nothing: float32 products of a 4,096-wide residual stream differ by 1e-5 with the order of
their sums, float16 states move a logit by 1e-3. At `embed`, prompts that end in the same token are the same."""


class Curve:
    """One per-example metric over layers, of the labelled examples of one split that have a number.

    values: [n, L]. chosen: those n examples. layers: [L], labels.
    """

    def __init__(self, metric: str, chosen: Population, values: np.ndarray, layers: list[str], why: str) -> None:
        """values: [all n, L], of all examples that are labelled; `why` some have no number."""
        told = np.isfinite(values).all(axis=1)
        self.metric, self.layers, self.values = metric, layers, _steady(values[told])
        self.chosen = chosen.where(told, why)
        self.correct = self.chosen.correct
        # Numbers in place of hashes: every estimate sorts them anew.
        self.images = np.unique(self.chosen.images, return_inverse=True)[1]

    def means(self, by_correctness: bool = True) -> Iterator[Row]:
        """By layer, `<metric>` of all answers and, if asked for, `<metric>_right` and `<metric>_wrong`: statistic
        `mean`.
        """
        right = self.correct == 1
        parts = {"": np.ones(len(right), bool), "_right": right, "_wrong": ~right}
        for suffix, part in parts.items() if by_correctness else [("", parts[""])]:
            metric = f"{self.metric}{suffix}"
            for layer, column in zip(self.layers, self.values.T, strict=True):
                found = partial(mean, column[part], self.images[part], metric)
                yield self.chosen.estimated(metric, "mean", found, layer=layer)

    def associations(self, seed: int, note: str | None = None) -> Iterator[Row]:
        """By layer, how the metric goes with correctness: `mean_difference` (right minus wrong), `point_biserial` and
        `auroc`.
        """
        for layer, column in zip(self.layers, self.values.T, strict=True):
            name = f"{self.metric} at {layer}"
            given = (column, self.correct, self.images)
            for statistic, estimator in (
                ("mean_difference", partial(mean_difference, *given, name)),
                ("point_biserial", partial(point_biserial, *given, name)),
                ("auroc", partial(varying_auroc, *given, seed, name)),
            ):
                yield self.chosen.estimated(self.metric, statistic, estimator, note, layer=layer)

    def derived(
        self, metric: str, statistic: str, of: Callable[[np.ndarray], np.ndarray], seed: int, note: str | None = None
    ) -> Row:
        """A number of the whole curve with an interval that resamples images. of: takes weights [k, n], returns [k],
        NaN where there is none; the note says in what share of the resamples.
        """
        try:
            value, draws = drawn(of, self.images, seed)
            estimate = percentiles(value, draws, len(np.unique(self.images)))
        except VlmlakeError as error:
            return self.chosen.refusal(metric, statistic, error)
        none = float(np.isnan(draws).mean())
        return self.chosen.row(
            metric, statistic, estimate, joined(note, f"none in {none:.1%} of the resamples" if none else None)
        )

    def mean_curves(self, weights: np.ndarray) -> np.ndarray:
        """weights: [k, n]. Returns [k, L], NaN where a resample drew none."""
        weights = weights.astype(np.float64)
        total = weights.sum(axis=1, keepdims=True)
        curves: np.ndarray = np.divide(
            weights @ self.values, total, out=np.full((len(weights), self.values.shape[1]), np.nan), where=total > 0
        )
        return curves

    def separations(self, weights: np.ndarray) -> np.ndarray:
        """Mean of right answers minus that of wrong ones. weights: [k, n]. Returns [k, L]."""
        right, wrong = self.mean_curves(weights * self.correct), self.mean_curves(weights * (1 - self.correct))
        apart: np.ndarray = right - wrong
        return apart


def varying_auroc(values: np.ndarray, correct: np.ndarray, images: np.ndarray, seed: int, name: str) -> Estimate:
    """`auroc` of a metric, which `name` names in errors. Raises VlmlakeError as that does, and for a constant one."""
    require_varying(values, name)
    return auroc(values, correct, images, seed)


def _steady(values: np.ndarray) -> np.ndarray:
    """Columns that vary by rounding alone, made constant, which correlations refuse."""
    if not len(values):
        return values
    steady: np.ndarray = np.where(np.ptp(values, axis=0) <= ROUNDING, values.mean(axis=0), values)
    return steady


def separation_rows(curve: Curve, blocks: np.ndarray, threshold: float, seed: int) -> Iterator[Row]:
    """Where right and wrong answers part: separation_onset (first layer whose difference of means exceeds the
    threshold), separation_peak (layer of the largest difference, and its size), zero_crossing (first layer from which
    on the mean stays above 0). Layers as block numbers; an interval is over the resamples that have such a layer.
    """
    note = f"threshold {threshold:g}"

    def first(weights: np.ndarray) -> np.ndarray:
        return onset(curve.separations(weights), blocks, threshold)

    yield curve.derived("separation_onset", "layer", first, seed, note)
    yield curve.derived("separation_peak", "layer", lambda w: peak(curve.separations(w), blocks)[0], seed)
    yield curve.derived("separation_peak", "size", lambda w: peak(curve.separations(w), blocks)[1], seed)
    yield curve.derived("zero_crossing", "layer", lambda w: crossing(curve.mean_curves(w), blocks), seed)


def peak_rows(curve: Curve, blocks: np.ndarray, metric: str, seed: int) -> Iterator[Row]:
    """The layer at which the mean is largest, and how large: statistics `layer` and `size`."""
    yield curve.derived(metric, "layer", lambda w: peak(curve.mean_curves(w), blocks)[0], seed)
    yield curve.derived(metric, "size", lambda w: peak(curve.mean_curves(w), blocks)[1], seed)
