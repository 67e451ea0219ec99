"""Linear probes of correctness on the readout states: is the answer's fate readable inside the model, and where?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import xarray as xr
from dask.delayed import Delayed

from vlmlake.analysis.blocks import computed
from vlmlake.analysis.contract import Analysis, Source, dataset_of, kept_array
from vlmlake.analysis.drawing import draw_over_layers, new_axes
from vlmlake.analysis.population import ALL_SPLITS, Population, joined, population
from vlmlake.analysis.probes.one_probe import FoldParameters
from vlmlake.analysis.probes.out_of_fold import Design, Scored, design, out_of_fold
from vlmlake.analysis.probes.scores import Score, score_rows, spread
from vlmlake.analysis.result import Result, result_table
from vlmlake.analysis.statistics.estimate import Estimate
from vlmlake.analysis.statistics.roc import aurocs
from vlmlake.answers.rules import DEFAULT_RULE
from vlmlake.errors import VlmlakeError
from vlmlake.store_schema.schema import PROMPT_LAST, position_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BASELINES = {"first_log_prob": 1.0, "first_gap": 1.0, "first_entropy": -1.0}
"""Scores that the output alone gives, with the sign that makes higher mean surer."""

FIRST_ANSWER = position_names(1)[1]
CHOSEN = "chosen"
"""The layer of `probe_nested`: its note names the layers."""
NESTED = "probe_nested"


def without_fold(fold: int) -> str:
    """The metric of what `probe_nested` says of its training part where this outer fold is tested."""
    return f"{NESTED}_without_fold_{fold}"


@dataclass(frozen=True)
class ProbeParameters(FoldParameters):
    """positions: those of the readout that are probed, where the run keeps them. The inner folds also choose the layer
    of `probe_nested`.

    Raises VlmlakeError as FoldParameters, and for positions that are none.
    """

    positions: tuple[str, ...] = (PROMPT_LAST, FIRST_ANSWER)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.positions or not all(isinstance(name, str) and name for name in self.positions):
            raise VlmlakeError(f"positions are {list(self.positions)}, expected names such as {PROMPT_LAST}")


DEFAULTS = ProbeParameters()


class ProbesResult(Result):
    """AUROC out of fold, by layer and position."""

    def plot(self, ax: Axes | None = None) -> Axes:
        """A line a position over the layers, with its interval; the shuffled-label baseline dotted."""
        axes = new_axes(ax)
        pooled = self.rows(split=ALL_SPLITS, statistic="auroc").drop_nulls("value")
        for (metric, position), rows in pooled.group_by("metric", "position", maintain_order=True):
            if metric not in ("probe", "probe_shuffled"):
                continue
            shuffled = metric == "probe_shuffled"
            label = f"{position}, labels shuffled" if shuffled else str(position)
            draw_over_layers(axes, rows, label, ":" if shuffled else "o-", band=not shuffled)
        axes.axhline(0.5, color="gray", linewidth=0.5)
        axes.set_ylabel("AUROC out of fold")
        axes.legend()
        return axes


def probes(
    source: Source,
    *,
    rule: str = DEFAULT_RULE,
    seed: int = 0,
    parameters: ProbeParameters = DEFAULTS,
) -> ProbesResult:
    """AUROC of correctness out of fold, per layer and position, pooled over the splits and in each.

    Features are standardised inside the fold, the classifier is an L2 logistic regression (C = 1), folds are grouped by
    image, pairs of one fold are compared, intervals resample images. Trained on all splits together.

    Metrics, statistic `auroc`: `probe` per layer; `probe_nested`, its layer chosen on inner folds; `probe_shuffled` per
    layer, the same on permuted labels (pooled only); and, at prompt_last, the output-side BASELINES, which need no
    training, on the same folds. `probe_gain`, statistic `auroc_difference`, is what the nested choice has over the
    first token's log-probability, with a paired interval.

    Per example, as probabilities of being right out of fold, calibrated by Platt's sigmoid on inner folds: `probe`
    (example, position, layer) and `probe_nested` (example, position).

    Also per example, at prompt_last, for what is trained on top of the probe (`fusion`) and never a confidence:
    `probe_nested_without_fold_<k>`, for each outer fold k (from 0) the probability that its training part has out of
    the inner folds, in the layer and after the sigmoid that `probe_nested` has in fold k, by models that have seen no
    label of fold k. What fold k tests has none.

    Intervals are of the scores, given the models: that folds train on one another's examples is not in them (Bengio and
    Grandvalet 2004), so that where nothing is to be found they miss 0.5 somewhat more often than in one of twenty.

    Method: arXiv 2605.08200, made leak-free by grouping; Platt 1999.

    Raises VlmlakeError for a single class, fewer images than folds, or too few errors, if that is so at all positions.
    """
    data = dataset_of(source)
    kept_array(data, "readout_states")
    asked = population(data, rule=rule)
    positions = [name for name in parameters.positions if name in data["position"].values]
    if not positions:
        raise VlmlakeError(f"run {data.attrs['run']} keeps none of the positions {', '.join(parameters.positions)}")
    layers = [str(name) for name in data["layer"].values]
    plans: dict[str, tuple[Population, Design]] = {}
    refused: dict[str, VlmlakeError] = {}
    for position in positions:
        try:
            chosen = _with_token(asked, position)
            plan = design(chosen.correct, chosen.images, parameters.folds, parameters.inner_folds, seed, baseline=True)
            plans[position] = chosen, plan
        except VlmlakeError as error:
            refused[position] = error
    if not plans:
        raise next(iter(refused.values()))
    tasks = [task for position, made in plans.items() for task in _tasks(data, position, layers, *made)]
    scored = iter(computed(tasks))
    rows, found = [], []
    for position, (chosen, plan) in plans.items():
        by_layer = {layer: next(scored) for layer in layers}
        at_position = _Position(data, position, chosen, plan, by_layer, seed)
        rows += at_position.rows()
        found.append(at_position.examples())
    rows += [asked.refusal("probe", "auroc", error, position=position) for position, error in refused.items()]
    return ProbesResult(result_table(rows), xr.concat(found, "position"))


def _with_token(asked: Population, position: str) -> Population:
    """Examples whose answer has the token of this position."""
    if position == PROMPT_LAST:
        return asked
    number = int(position.removeprefix("answer_"))
    return asked.where(asked.data["answer_tokens"].values > number, "without an answer token")


def _tasks(data: xr.Dataset, position: str, layers: list[str], chosen: Population, plan: Design) -> list[Delayed]:
    states = data["readout_states"].sel(position=position).isel(example=chosen.places)
    shared = dask.delayed(plan)  # type: ignore[attr-defined]
    task = dask.delayed(probe_layer)  # type: ignore[attr-defined]
    return [task(states.sel(layer=layer).data, shared, layer) for layer in layers]


def probe_layer(states: np.ndarray, plan: Design, layer: str) -> Scored | VlmlakeError:
    """Scores out of fold of one layer's states [n, d], or why there are none."""
    if (states == states[0]).all():
        return VlmlakeError(f"readout states at {layer} are the same for all {len(states)} examples")
    try:
        return out_of_fold(states, plan)
    except VlmlakeError as error:
        return VlmlakeError(f"{layer}: {error}")


@dataclass(frozen=True)
class _Position:
    """The layers of one position, scored."""

    data: xr.Dataset
    position: str
    chosen: Population
    plan: Design
    by_layer: dict[str, Scored | VlmlakeError]
    seed: int

    @property
    def there(self) -> dict[str, Scored]:
        return {layer: scored for layer, scored in self.by_layer.items() if isinstance(scored, Scored)}

    def picked(self) -> list[str]:
        """For each outer fold the layer that its inner folds prefer."""
        layers = list(self.there)
        quality = np.array([scored.inner_auroc for scored in self.there.values()])
        return [layers[number] for number in quality.argmax(axis=0)]

    def inside(self) -> np.ndarray:
        """[folds, n], of the training part of each outer fold the probabilities out of its inner folds; else NaN."""
        if not self.there:
            return np.full((len(self.plan.folds), len(self.chosen)), np.nan)
        return np.array([self.there[layer].inner_probabilities[fold] for fold, layer in enumerate(self.picked())])

    def nested(self, what: str) -> np.ndarray:
        """[n], `logits` or `probabilities` of the picked layers."""
        values = np.empty(len(self.chosen))
        for (_, test), layer in zip(self.plan.folds, self.picked(), strict=True):
            values[test] = getattr(self.there[layer], what)[test]
        return values

    def rows(self) -> list[dict[str, Any]]:
        note = "can read the answer itself" if self.position != PROMPT_LAST else None
        refused = [
            self.chosen.refusal("probe", "auroc", error, layer=layer, position=self.position)
            for layer, error in self.by_layer.items()
            if isinstance(error, VlmlakeError)
        ]
        if not self.there:
            return refused
        scores = [Score("probe", it.logits, self.position, layer, note) for layer, it in self.there.items()]
        nested, log_prob = self.nested("logits"), self.chosen.data["first_log_prob"].values
        picked = self.picked()
        everywhere = len(set(picked)) == 1
        named = joined(note, f"{picked[0]} in every fold" if everywhere else f"layers by fold: {', '.join(picked)}")
        scores.append(Score(NESTED, nested, self.position, CHOSEN, named))
        if self.position == PROMPT_LAST:
            for name, sign in BASELINES.items():
                scores.append(Score(name, sign * self.chosen.data[name].values, self.position, trained=False))
        scores.append(Score("probe_gain", nested, self.position, CHOSEN, joined(note, "over first_log_prob"), log_prob))
        return [
            *refused,
            *score_rows(self.data, self.chosen, scores, self.plan.strata, self.seed),
            *self._shuffled_rows(),
        ]

    def _shuffled_rows(self) -> list[dict[str, Any]]:
        """A row a layer; where the shuffle happens to leave too little to compare, with the reason for a value."""
        found: Sequence[Estimate | VlmlakeError]
        try:
            found = self._shuffled()
        except VlmlakeError as error:
            found = [error] * len(self.there)
        return [
            self.chosen.refusal("probe_shuffled", "auroc", estimate, position=self.position, layer=layer)
            if isinstance(estimate, VlmlakeError)
            else self.chosen.row("probe_shuffled", "auroc", estimate, position=self.position, layer=layer)
            for layer, estimate in zip(self.there, found, strict=True)
        ]

    def _shuffled(self) -> list[Estimate | VlmlakeError]:
        """Of each layer that is there. Raises VlmlakeError if the shuffled labels have no folds or no pairs."""
        if self.plan.shuffled is None:
            raise self.plan.unlucky or VlmlakeError("no baseline was asked for")
        scores = np.array([scored.shuffled for scored in self.there.values()])
        return aurocs(scores, self.plan.shuffled, self.chosen.images, self.seed, self.plan.shuffled_strata)

    def examples(self) -> xr.Dataset:
        """`probe` and `probe_nested` of all examples of the Dataset, at this position, and those without a fold."""
        nowhere = np.full(len(self.chosen), np.nan)
        by_layer = np.array([it.probabilities if isinstance(it, Scored) else nowhere for it in self.by_layer.values()])
        nested = self.nested("probabilities") if self.there else nowhere
        single = {NESTED: nested}
        if self.position == PROMPT_LAST:
            single |= {without_fold(fold): values for fold, values in enumerate(self.inside())}
        return xr.Dataset(
            {
                "probe": (("example", "layer"), spread(self.data, self.chosen, by_layer).T),
                **{name: ("example", spread(self.data, self.chosen, values)) for name, values in single.items()},
            },
            {"example": self.data["example"].values, "layer": list(self.by_layer)},
        ).expand_dims(position=[self.position], axis=1)


PROBES = Analysis(
    "probes",
    "linear probes of correctness on the residual stream, by layer and position",
    probes,
    reads=("readout_states",),
    labelled=True,
    parameters=DEFAULTS,
)
