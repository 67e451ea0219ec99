"""Labels: what each rule makes of every answer, and how often the greedy answer is right, by split."""

from __future__ import annotations

from typing import TYPE_CHECKING

import xarray as xr

from vlmlake.analysis.contract import NO_PARAMETERS, Analysis, NoParameters, Source, dataset_of
from vlmlake.analysis.population import population, splits_of
from vlmlake.analysis.result import Result, new_axes, result_table
from vlmlake.analysis.rules import DEFAULT_RULE
from vlmlake.analysis.statistics.proportions import proportion

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class LabelsResult(Result):
    """Accuracy of the greedy answers, by split."""

    def plot(self, ax: Axes | None = None) -> Axes:
        """A bar a split."""
        axes = new_axes(ax)
        rows = self.rows(metric="accuracy", statistic="proportion")
        errors = [rows["value"] - rows["low"], rows["high"] - rows["value"]]
        axes.bar(rows["split"].to_list(), rows["value"].to_list(), yerr=errors)
        axes.set_ylabel("accuracy")
        return axes


def labels(
    source: Source, *, rule: str = DEFAULT_RULE, seed: int = 0, parameters: NoParameters = NO_PARAMETERS
) -> LabelsResult:
    """Share of right answers, pooled over the splits and in each."""
    data: xr.Dataset = dataset_of(source)
    rows = []
    for split in splits_of(data):
        chosen = population(data, split, rule)
        rows.append(chosen.row("accuracy", "proportion", proportion(chosen.correct, chosen.images)))
    return LabelsResult(result_table(rows))


LABELS = Analysis("labels", "correctness of the greedy answers under the rule", labels, labelled=True)
