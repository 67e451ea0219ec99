"""The analysis: its parameters, its result and how it is plotted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from vlmlake.analysis.attention.findings import Row, confidence_row, head_rows, layer_rows
from vlmlake.analysis.attention.layers import DERIVED, entropy_change, profile_rows
from vlmlake.analysis.attention.maps import ANSWER, EXAMPLE_METRICS, HEAD_METRICS
from vlmlake.analysis.attention.rows import require_tolerance
from vlmlake.analysis.attention.tasks import READOUT, WHOLE, Attention, attention_numbers
from vlmlake.analysis.attention.updates import IMAGE_UPDATE, image_updates
from vlmlake.analysis.contract import Analysis, Source, dataset_of
from vlmlake.analysis.drawing import draw_over_layers, new_axes
from vlmlake.analysis.population import ALL_SPLITS, Population, populations
from vlmlake.analysis.result import Result, result_table
from vlmlake.answers.rules import DEFAULT_RULE
from vlmlake.errors import VlmlakeError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CHANGE = "entropy_change"
CORRELATED_OF_HEADS = ("entropy_normalised",)


@dataclass(frozen=True)
class AttentionParameters:
    """plateau_threshold: nats; a block whose mean entropy changes by less belongs to a plateau. row_sum_tolerance: how
    far a stored softmax row's sum may be from 1 (float16 rounding of 650 keys stays below 1e-3).

    Raises VlmlakeError for a threshold below 0, or a tolerance that is not between 0 and 1.
    """

    plateau_threshold: float = 0.1
    row_sum_tolerance: float = 5e-3

    def __post_init__(self) -> None:
        require_tolerance(self.row_sum_tolerance)
        if not 0 <= self.plateau_threshold < np.inf:
            raise VlmlakeError(f"plateau_threshold is {self.plateau_threshold}, expected nats, 0 or more")


DEFAULTS = AttentionParameters()


class AttentionResult(Result):
    """Structure of the image attention, by kind of query and block."""

    def plot(self, ax: Axes | None = None) -> Axes:
        """Mean normalised entropy over the blocks, a line for each kind of query, with its 95 % band."""
        axes = new_axes(ax)
        whole = self.rows(metric="entropy_normalised", statistic="mean", split=ALL_SPLITS)
        whole = whole.filter(whole["head"].is_null() & (whole["layer"] != "mean"))
        for (position,), rows in whole.group_by("position", maintain_order=True):
            draw_over_layers(axes, rows.drop_nulls("value"), str(position))
        axes.set_ylabel("H_s / ln S")
        axes.legend()
        return axes


def attention(
    source: Source,
    *,
    rule: str = DEFAULT_RULE,
    seed: int = 0,
    parameters: AttentionParameters = DEFAULTS,
) -> AttentionResult:
    """How attention spreads over the image, and whether that goes with right answers (arXiv 2605.08200).

    For the queries `answer` (mean over the answer's tokens, the study's choice) and `prompt_last`, of the attention of
    each block, mean over heads, to the image's S patches, divided by its sum:

    * entropy (nats, at most ln S), entropy_normalised (over ln S: models have different S, so this form alone may be
      pooled over models), entropy_change (nats, from the block before), clusters_dbscan_p90 and
      clusters_components_mass30, mass_top10, mass_top30, gini (`structure.structure`);
    * image_mass, text_mass, sink_mass: shares of the whole row (`maps.SHARES`);
    * image_update: what each block adds to the image's tokens, where the run keeps it; of no position.

    examples: each of them over `example`, `position` (`answer`, `prompt_last`) and `layer` (blocks only), float64; NaN
    where an example has no such query, or a block none before it.

    Table: of each metric, block, position and split its `mean` and its `point_biserial` correlation with correctness,
    and the same of each example's mean over blocks (layer `mean`); of the latter entropy_normalised also correlated
    with the answer's first log-prob (`pearson_first_log_prob`). For the split `all` also, by `head`, the mean of
    entropy_normalised and image_mass and the correlation of the former (no number for a head that gives an image
    nothing that the stored dtype can hold), and where mean entropy locks on, rests and diffuses (`layers.profile`).
    Intervals are grouped by image; a column that has no estimate is a row without a value whose note says why.

    Raises VlmlakeError if the run keeps no attention, none of its examples has a label under the rule, or its rows are
    damaged: do not sum to 1, look ahead, hold negative weights, or give the image nothing.
    """
    data = dataset_of(source)
    groups = populations(data, rule)
    found = attention_numbers(data, parameters.row_sum_tolerance)
    numbers = _numbers(found)
    updates = image_updates(data, found.layers)
    told = data["answer_tokens"].values > 0
    rows: list[Row] = []
    for everyone in groups:
        if updates is not None:
            rows += layer_rows(everyone, IMAGE_UPDATE, updates[everyone.places], found.layers, None)
        for kind, position in enumerate(found.kinds):
            chosen = everyone
            if position == ANSWER:
                if not told[everyone.places].any():
                    nothing = VlmlakeError("no labelled example has an answer token")
                    rows.append(everyone.refusal("entropy_normalised", "mean", nothing, position=position))
                    continue
                chosen = everyone.where(told[everyone.places], "without an answer token")
            for metric, values in numbers.items():
                rows += layer_rows(chosen, metric, values[kind, chosen.places], found.layers, position)
            entropy = numbers["entropy_normalised"][kind, chosen.places]
            rows.append(confidence_row(chosen, "entropy_normalised", entropy, position))
            if chosen.split == ALL_SPLITS:
                change = numbers[CHANGE][kind, chosen.places]
                rows += profile_rows(chosen, change, found.layers, parameters.plateau_threshold, seed, position)
                rows += _of_heads(chosen, found, kind, position)
    return AttentionResult(result_table(rows), _examples(data, found, numbers, updates))


def _numbers(found: Attention) -> dict[str, np.ndarray]:
    """By metric [kinds, n, L]."""
    numbers = {metric: found.examples[:, place] for place, metric in enumerate(EXAMPLE_METRICS)}
    return {**numbers, CHANGE: entropy_change(numbers["entropy"], found.layers)}


def _of_heads(chosen: Population, found: Attention, kind: int, position: str) -> list[Row]:
    rows: list[Row] = []
    for place, metric in enumerate(HEAD_METRICS):
        values = found.heads[kind, place, chosen.places]
        rows += head_rows(chosen, metric, values, found.layers, position, metric in CORRELATED_OF_HEADS)
    return rows


def _examples(
    data: xr.Dataset, found: Attention, numbers: Mapping[str, np.ndarray], updates: np.ndarray | None
) -> xr.Dataset:
    variables: dict[str, tuple[tuple[str, ...], np.ndarray]] = {
        metric: (("example", "position", "layer"), np.moveaxis(values, 0, 1)) for metric, values in numbers.items()
    }
    if updates is not None:
        variables[IMAGE_UPDATE] = (("example", "layer"), updates)
    labels = {"example": data["example"].values, "position": list(found.kinds), "layer": list(found.layers)}
    return xr.Dataset(variables, coords=labels)


ATTENTION = Analysis(
    "attention",
    "how attention spreads over the image",
    attention,
    reads=(f"{WHOLE}|{READOUT}",),
    takes=(IMAGE_UPDATE,),
    headline=("entropy_normalised", "image_mass", *(metric for metric, _ in DERIVED)),
    parameters=DEFAULTS,
)
