"""Selective prediction: which confidence a monitor should trust, when it may refuse to answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from vlmlake.analysis.contract import Analysis, Source, dataset_of
from vlmlake.analysis.drawing import new_axes
from vlmlake.analysis.population import ALL_SPLITS, Population, joined, populations
from vlmlake.analysis.result import Result, result_table
from vlmlake.analysis.statistics.calibration import brier, expected_calibration_error
from vlmlake.analysis.statistics.risk import COVERAGES, risk_curve
from vlmlake.analysis.statistics.roc import auroc, auroc_gain
from vlmlake.answers.rules import DEFAULT_RULE
from vlmlake.errors import VlmlakeError
from vlmlake.store_schema.schema import PROMPT_LAST

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POOLED = "calibrated out of fold, folds pooled"
NEGATED = "confidence is its negative"


@dataclass(frozen=True)
class SelectiveParameters:
    """coverages: shares of answered examples at which the risk is given, above 0 and at most 1."""

    coverages: tuple[float, ...] = COVERAGES


DEFAULTS = SelectiveParameters()


@dataclass(frozen=True)
class Confidence:
    """One number of each example that is higher where the answer is surer.

    metric: its name in the rows. analysis: the one that finds it, None for what the answers' coordinates have. of:
    turns the number as it is kept into the confidence. probability: turns a confidence into the probability of being
    right, where there is one.
    """

    metric: str
    analysis: str | None = None
    of: Callable[[np.ndarray], np.ndarray] = np.asarray
    probability: Callable[[np.ndarray], np.ndarray] | None = None
    note: str | None = None


def _exp(log_probs: np.ndarray) -> np.ndarray:
    """Probabilities of log-probs that rounding may have put a little above 0."""
    probabilities: np.ndarray = np.exp(np.minimum(log_probs, 0.0))
    return probabilities


CHEAPEST = Confidence("first_log_prob", probability=_exp)
"""What every other confidence must beat to be worth its cost."""
CONFIDENCES = (
    CHEAPEST,
    Confidence("first_gap"),
    Confidence("first_entropy", of=np.negative, note=NEGATED),
    Confidence("margin_pred", "margins"),
    Confidence("entropy_normalised", "attention", of=np.negative, note=NEGATED),
    Confidence("self_consistency", "consistency"),
    Confidence("probe_nested", "probes", probability=np.asarray, note=POOLED),
    Confidence("attention_probe", "attention_probe", probability=np.asarray, note=POOLED),
    Confidence("fusion", "fusion", probability=np.asarray, note=POOLED),
)
"""Those that are compared. Scores out of fold of several models have no common zero, unless they are calibrated: the
probes' are, so that one threshold may serve all folds."""


class SelectiveResult(Result):
    """Rows `auroc` and its `auroc_difference`, `aurc`, `excess_aurc`, `risk` at coverages; `ece` and `brier` of
    probabilities.
    """

    def plot(self, ax: Axes | None = None) -> Axes:
        """Risk-coverage curves with their intervals, over all splits."""
        axes = new_axes(ax)
        rows = self.rows(split=ALL_SPLITS, statistic="risk").drop_nulls("value").sort("at", maintain_order=True)
        for (metric,), curve in rows.group_by("metric", maintain_order=True):
            (line,) = axes.plot(curve["at"].to_list(), curve["value"].to_list(), label=str(metric))
            bounds = curve["low"].to_list(), curve["high"].to_list()
            axes.fill_between(curve["at"].to_list(), *bounds, color=line.get_color(), alpha=0.1)
        axes.set_xlabel("coverage: share of questions answered")
        axes.set_ylabel("selective risk: share of wrong answers")
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")
        return axes


def selective(
    source: Source,
    *,
    rule: str = DEFAULT_RULE,
    seed: int = 0,
    parameters: SelectiveParameters = DEFAULTS,
    metrics: xr.Dataset | None = None,
) -> SelectiveResult:
    """Compare every confidence that there is, on the same examples: those that have all of them.

    metrics: the other analyses' numbers of each example, as Result.examples; without it only the coordinates' are
    compared. Taken at prompt_last and the last layer, where they have those. Rows per split and confidence: `auroc`;
    `auroc_difference`, what it has over that of the first token's log-probability, with a paired interval;
    the `risk` at each coverage (column `at`), its area `aurc` and what that has over the best order `excess_aurc`
    (statistics.risk); of probabilities also `ece` and `brier` (statistics.calibration). A confidence that is missing
    has a row that says so. Accuracy at 80 % coverage is one less the risk at 0.8.

    Probabilities are exp(first_log_prob), which is that of the first token and not fitted to anything, and the
    calibrated ones of the probes.

    Raises VlmlakeError if no example is labelled, or none has every confidence.
    """
    data: xr.Dataset = dataset_of(source)
    found, missing = _confidences(data, metrics)
    rows = []
    for answered in populations(data, rule):
        rows += [answered.row(one.metric, "auroc", None, why) for one, why in missing]
        rows += _compared(answered, found, parameters.coverages, seed)
    if all(row["value"] is None for row in rows):
        told = (row["note"] for row in rows if row["statistic"] == "auroc")
        reasons = dict.fromkeys(note.replace(f"{NEGATED}; ", "").replace(f"{POOLED}; ", "") for note in told)
        raise VlmlakeError(f"run {data.attrs['run']}: {'; '.join(reasons)}")
    return SelectiveResult(result_table(rows))


def _confidences(
    data: xr.Dataset, metrics: xr.Dataset | None
) -> tuple[dict[Confidence, np.ndarray], list[tuple[Confidence, str]]]:
    """Those that there are, each [example] over all examples of the run, and why the others are not there."""
    found, missing = {}, []
    for one in CONFIDENCES:
        if one.analysis is None:
            found[one] = one.of(data[one.metric].values.astype(np.float64))
        elif metrics is not None:
            try:
                found[one] = one.of(_taken(data, metrics, one))
            except VlmlakeError as error:
                missing.append((one, str(error)))
    return found, missing


def _taken(data: xr.Dataset, metrics: xr.Dataset, one: Confidence) -> np.ndarray:
    """[example], in the order of `data`, NaN where an example has no number.

    Raises VlmlakeError where the analysis found nothing at the last layer or prompt_last.
    """
    if one.metric not in metrics:
        raise VlmlakeError(f"the analysis {one.analysis} found no {one.metric} in this run")
    values = metrics[one.metric]
    wanted = {"layer": data["layer"].values[-1], "position": PROMPT_LAST}
    for dimension, label in wanted.items():
        if dimension in values.dims:
            if label not in values[dimension].values:
                raise VlmlakeError(f"the analysis {one.analysis} found no {one.metric} at {dimension} {label}")
            values = values.sel({dimension: label})
    taken: np.ndarray = values.reindex(example=data["example"].values).values.astype(np.float64)
    return taken


def _compared(
    answered: Population, found: dict[Confidence, np.ndarray], coverages: Sequence[float], seed: int
) -> Iterator[dict[str, Any]]:
    here = {one: np.isfinite(values[answered.places]) for one, values in found.items()}
    for one in [one for one, told in here.items() if not told.any()]:
        del here[one]
        yield answered.row(one.metric, "auroc", None, f"no example of this split has {one.metric}")
    if not here:
        return
    chosen = answered.where(np.logical_and.reduce(list(here.values())), "without every confidence")
    for one in here:
        yield from _rows(chosen, one, found[one][chosen.places], coverages, seed)
        if one is not CHEAPEST and CHEAPEST in here:
            yield _gain(chosen, one, found[one][chosen.places], found[CHEAPEST][chosen.places], seed)


def _gain(chosen: Population, one: Confidence, values: np.ndarray, cheapest: np.ndarray, seed: int) -> dict[str, Any]:
    return chosen.estimated(
        one.metric,
        "auroc_difference",
        lambda: auroc_gain(values, cheapest, chosen.correct, chosen.images, seed),
        joined(one.note, f"over {CHEAPEST.metric}"),
    )


def _rows(
    chosen: Population, one: Confidence, values: np.ndarray, coverages: Sequence[float], seed: int
) -> Iterator[dict[str, Any]]:
    correct, images = chosen.correct, chosen.images
    yield chosen.estimated(one.metric, "auroc", lambda: auroc(values, correct, images, seed), one.note)
    try:
        curve = risk_curve(values, correct, images, seed, coverages)
    except VlmlakeError as error:
        yield chosen.refusal(one.metric, "aurc", error)
    else:
        yield chosen.row(one.metric, "aurc", curve.aurc, one.note)
        yield chosen.row(one.metric, "excess_aurc", curve.excess, one.note)
        for coverage, risk in zip(curve.coverages, curve.risks, strict=True):
            yield chosen.row(one.metric, "risk", risk, one.note, at=coverage)
    if one.probability is not None:
        told = one.probability(values)
        yield chosen.estimated(
            one.metric, "ece", lambda: expected_calibration_error(told, correct, images, seed), one.note
        )
        yield chosen.estimated(one.metric, "brier", lambda: brier(told, correct, images, seed), one.note)


SELECTIVE = Analysis(
    "selective",
    "risk-coverage curves and calibration of every confidence",
    selective,
    after=("margins", "consistency", "probes", "attention", "attention_probe", "fusion"),
    parameters=DEFAULTS,
)
