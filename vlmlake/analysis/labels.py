"""Labels: what a rule makes of every answer, how often the greedy answer is right, and POPE's own scores, by split."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import xarray as xr

from vlmlake.analysis.contract import NO_PARAMETERS, Analysis, NoParameters, Source, dataset_of
from vlmlake.analysis.drawing import new_axes
from vlmlake.analysis.population import ALL_SPLITS, Population, population, splits_of, with_unparsed
from vlmlake.analysis.result import Result, result_table
from vlmlake.analysis.statistics.proportions import proportion, ratio
from vlmlake.answers.rules import DEFAULT_RULE, is_yes_or_no, judged, right_or_wrong, rule_named

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class LabelsResult(Result):
    """`labels` has one row per example that the rule labels; `table` the scores of the greedy answers, by split."""

    def plot(self, ax: Axes | None = None) -> Axes:
        """Accuracy with its interval, a bar a split."""
        axes = new_axes(ax)
        rows = self.rows(metric="accuracy", statistic="proportion").drop_nulls("value")
        errors = [rows["value"] - rows["low"], rows["high"] - rows["value"]]
        axes.bar(rows["split"].to_list(), rows["value"].to_list(), yerr=errors, capsize=4)
        axes.set_title(rule_named(self.table["rule"][0]).title)
        axes.set_ylabel("accuracy")
        axes.set_ylim(0, 1)
        return axes


def labels(
    source: Source, *, rule: str = DEFAULT_RULE, seed: int = 0, parameters: NoParameters = NO_PARAMETERS
) -> LabelsResult:
    """Label all answers under one rule, and score them pooled over the splits and in each.

    Rows per split: `accuracy` and `unparsed` (the share of answers that the rule cannot read: neither right nor wrong,
    and in no other row) as proportions; the mean `score` where the rule scores between 0 and 1; and where all gold
    answers are yes or no POPE's own scores (Li et al. 2023, section 5), with `yes` as the positive class: `precision`,
    `recall` and `f1` as ratios, `yes_ratio` as the proportion of answers read as yes. Pooled over POPE's splits, which
    share their questions with the answer yes, these are counted once: the pooled precision is then no mean of theirs.

    Raises VlmlakeError for an unknown rule, and if it can label no example.
    """
    data: xr.Dataset = dataset_of(source)
    population(data, ALL_SPLITS, rule)
    rows = [row for split in splits_of(data) for row in _rows(data, split, rule, seed)]
    return LabelsResult(result_table(rows), labels=_labels(data, rule))


def _rows(data: xr.Dataset, split: str, rule: str, seed: int) -> Iterator[dict[str, Any]]:
    answered = with_unparsed(data, split, rule)
    unparsed = np.isnan(answered.correct)
    yield answered.estimated("unparsed", "proportion", lambda: proportion(unparsed, answered.images))
    chosen = answered.where(~unparsed, "unparsed")
    yield chosen.estimated("accuracy", "proportion", lambda: proportion(chosen.correct, chosen.images))
    scores, _ = judged(chosen.data["answer"].values, chosen.data["gold"].values, rule)
    if not np.isin(scores, (0, 1)).all():
        ones = np.ones(len(scores))
        yield chosen.estimated("score", "mean", lambda: ratio(scores, ones, chosen.images, seed))
    yield from _pope_scores(chosen, rule, seed)


def _pope_scores(chosen: Population, rule: str, seed: int) -> Iterator[dict[str, Any]]:
    says, golds = rule_named(rule).says, chosen.data["gold"].values
    if says is None or not len(chosen) or not all(is_yes_or_no(gold) for gold in set(golds)):
        return
    answers = chosen.data["answer"].values
    said = {answer: says(answer) == "yes" for answer in set(answers)}
    predicted = np.array([said[answer] for answer in answers], np.float64)
    actual = np.array([gold.lower() == "yes" for gold in golds], np.float64)
    hits, images = predicted * actual, chosen.images
    yield chosen.estimated("precision", "ratio", lambda: ratio(hits, predicted, images, seed))
    yield chosen.estimated("recall", "ratio", lambda: ratio(hits, actual, images, seed))
    yield chosen.estimated("f1", "ratio", lambda: ratio(2 * hits, predicted + actual, images, seed))
    yield chosen.estimated("yes_ratio", "proportion", lambda: proportion(predicted, images))


def _labels(data: xr.Dataset, rule: str) -> pl.DataFrame:
    """Rows of tables.LABELS: of every example whose gold answer the rule can compare with."""
    scores, labelled = judged(data["answer"].values, data["gold"].values, rule)
    right = right_or_wrong(scores)
    names = np.select([np.isnan(right), right == 1], ["unparsed", "right"], "wrong")
    return pl.DataFrame(
        {
            "run": data.attrs["run"],
            "example": pl.Series(data["example"].values[labelled].tolist(), dtype=pl.String),
            "rule": rule,
            "label": pl.Series(names[labelled].tolist(), dtype=pl.String),
            "score": pl.Series(scores[labelled]).fill_nan(None),
        }
    )


LABELS = Analysis("labels", "correctness of the greedy answers under the rule", labels, labelled=True)
