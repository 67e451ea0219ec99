"""A probe on one feature matrix: what the attention probe and the fusion of all metrics share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import dask
import numpy as np
import xarray as xr

from vlmlake.analysis.blocks import computed
from vlmlake.analysis.drawing import draw_by_split, new_axes
from vlmlake.analysis.population import ALL_SPLITS, Population
from vlmlake.analysis.probes.out_of_fold import Design, out_of_fold, out_of_fold_apart
from vlmlake.analysis.probes.scores import Score, score_rows, spread
from vlmlake.analysis.result import Result, result_table
from vlmlake.errors import VlmlakeError
from vlmlake.store_schema.schema import PROMPT_LAST

if TYPE_CHECKING:
    from matplotlib.axes import Axes


FOLDS = 5
INNER_FOLDS = 4


@dataclass(frozen=True)
class FoldParameters:
    """folds: the outer ones, whose AUROC is reported. inner_folds: of each training part; they fit Platt's sigmoid.

    Raises VlmlakeError for fewer than two of either.
    """

    folds: int = FOLDS
    inner_folds: int = INNER_FOLDS

    def __post_init__(self) -> None:
        for name, number in (("folds", self.folds), ("inner_folds", self.inner_folds)):
            if number < 2:
                raise VlmlakeError(f"{name} is {number}, expected 2 or more: a fold is tested by models of the others")


DEFAULTS = FoldParameters()


class OneProbeResult(Result):
    """AUROC out of fold of one probe and of the first token's log-probability, by split."""

    def plot(self, ax: Axes | None = None) -> Axes:
        """A point a split and score, with its interval."""
        axes = new_axes(ax)
        rows = self.rows(statistic="auroc").group_by("metric", maintain_order=True)
        draw_by_split(axes, {str(metric): part for (metric,), part in rows})
        axes.axhline(0.5, color="gray", linewidth=0.5)
        axes.set_ylabel("AUROC out of fold")
        axes.legend()
        return axes

    def auroc(self) -> float:
        """Of the probe, pooled over the splits."""
        value: float = self.rows(split=ALL_SPLITS, statistic="auroc")["value"][0]
        return value


def one_probe(
    data: xr.Dataset,
    chosen: Population,
    features: np.ndarray,
    metric: str,
    plan: Design,
    seed: int,
    note: str | None = None,
) -> OneProbeResult:
    """Rows and calibrated probabilities of an L2 logistic regression on features of a pooled population.

    features: [n, d], or [folds, n, d] where each outer fold of the plan has its own. seed: of the intervals.

    Rows, at prompt_last, pooled and in each split: `metric` and `first_log_prob`, statistic `auroc`, on the same folds;
    `<metric>_gain` over it, statistic `auroc_difference`. Intervals are of the scores, given the models, as
    those of `probes`: where nothing is to be found they miss 0.5 somewhat more often than in one of twenty. Per
    example: `metric`, the probability of being right.

    Raises VlmlakeError for too few errors, or a feature that is no number.
    """
    solve = out_of_fold_apart if features.ndim == 3 else out_of_fold
    (scored,) = computed([dask.delayed(solve)(features, plan)])  # type: ignore[attr-defined]
    log_prob = chosen.data["first_log_prob"].values
    scores = [
        Score(metric, scored.logits, PROMPT_LAST, note=note),
        Score("first_log_prob", log_prob, PROMPT_LAST, trained=False),
        Score(f"{metric}_gain", scored.logits, PROMPT_LAST, note="over first_log_prob", against=log_prob),
    ]
    rows = score_rows(data, chosen, scores, plan.strata, seed)
    values = spread(data, chosen, scored.probabilities)
    examples = xr.Dataset({metric: ("example", values)}, {"example": data["example"].values})
    return OneProbeResult(result_table(rows), examples)
