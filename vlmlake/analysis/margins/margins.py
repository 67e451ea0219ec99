"""Margins by layer: how far the gold answer, and the model's own, are ahead of all other tokens, and what the image
adds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from vlmlake.analysis.contract import Analysis, Source, dataset_of
from vlmlake.analysis.drawing import draw_over_layers, new_axes
from vlmlake.analysis.layer_order import block_numbers
from vlmlake.analysis.margins.curves import Curve, peak_rows, separation_rows
from vlmlake.analysis.margins.layers import commit_layers, whole_stack
from vlmlake.analysis.margins.readouts import Readouts
from vlmlake.analysis.population import Population, joined, populations
from vlmlake.analysis.result import Result, Row, result_table
from vlmlake.answers.rules import DEFAULT_RULE, is_yes_or_no
from vlmlake.answers.spellings import gold_note
from vlmlake.errors import VlmlakeError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LENS_METRICS = (
    "margin_gold",
    "margin_pred",
    "rank_gold",
    "lens_entropy",
    "lens_log_prob_gold",
    "yes_minus_no",
    "margin_gold_blank",
    "image_effect",
)
"""Per-example numbers over layers, as far as a run has them."""
CONFIDENCES = ("margin_gold", "margin_pred", "yes_minus_no_size")
WITHOUT_GOLD = ("margin_pred", "lens_entropy", "yes_minus_no")
"""Of LENS_METRICS those that do not look at the gold answer."""
KNOWS_GOLD = "the margin knows the gold answer's first token"
DECIDES = "at the last block its sign says whether the one word yes or no is right"
UNTOLD = "without a token for the gold answer"


@dataclass(frozen=True)
class MarginParameters:
    """threshold: what the difference of mean margins must exceed at separation_onset, in logits. last_block: label of
    the model's last block, for a plan that keeps the first blocks only; by default the last one kept, which must then
    agree with the stored logits unless blocks before it are missing.
    """

    threshold: float = 1.0
    last_block: str | None = None

    def __post_init__(self) -> None:
        if not np.isfinite(self.threshold):
            raise VlmlakeError(f"margins.threshold is {self.threshold}, expected a number of logits")
        if self.last_block is not None and not re.fullmatch(r"block_(0|[1-9][0-9]*)", str(self.last_block)):
            raise VlmlakeError(f"margins.last_block is {self.last_block}, expected a block's label like block_31")


DEFAULTS = MarginParameters()


class MarginsResult(Result):
    """Margins of every example by layer, and their curves by correctness."""

    def plot(self, ax: Axes | None = None) -> Axes:
        """Mean margin of right and of wrong answers by layer, with the bands of their intervals."""
        axes = new_axes(ax)
        for metric, name in (("margin_gold_right", "right answers"), ("margin_gold_wrong", "wrong answers")):
            rows = self.rows(metric=metric, statistic="mean", split="all").drop_nulls("value")
            draw_over_layers(axes, rows, name)
        axes.axhline(0, linewidth=0.5, color="grey")
        axes.set_ylabel("logit of gold minus the largest other")
        axes.legend()
        return axes


def margins(
    source: Source,
    *,
    rule: str = DEFAULT_RULE,
    seed: int = 0,
    parameters: MarginParameters = DEFAULTS,
) -> MarginsResult:
    """Margins at prompt_last by layer, through the final norm (once) and the unembedding.

    Method: the "Margins" of arXiv 2605.08200 by the logit lens (nostalgebraist 2020), blockwise over the vocabulary.
    The gold answer's first token is read as any of its spellings (`Vocabulary.gold`), and "other" as everything else: a
    model that is about to write " Yes" has not lost against "yes". Ten annotators' answers are read as their modal one
    (`gold_text`), which the note then says.

    `.examples`, float64, over example and layer: margin_gold, margin_pred, rank_gold, lens_entropy (nats),
    lens_log_prob_gold, as `lens` defines them, with the argmax of the stored logits at prompt_last as the model's own
    token (of the last layer's lens where the plan keeps no logits); yes_minus_no where all gold answers are yes or no;
    margin_gold_blank and image_effect (margin_gold minus it) where the run has the blank pass. Over example:
    commit_layer, the block from which on the sign of margin_gold never changes. NaN where no token spells the gold
    answer.

    `.table`: `mean` by layer of each of these, of all answers and of the right and the wrong ones (`<metric>_right`,
    `<metric>_wrong`); `mean_difference`, `point_biserial` and `auroc` by layer of margin_gold, margin_pred and
    yes_minus_no_size, its absolute value; separation_onset, separation_peak, zero_crossing, image_effect_peak, as
    `curves` says, in block numbers (embeddings: -1); `lens_deviation`, statistic `max`: how far the lens at the last
    layer is from the stored logits. margin_gold knows the gold answer's first token, where margin_pred knows only what
    the model says: at the last block its sign is correctness for answers of the one word yes or no, and of longer ones
    says only how they begin.

    Raises VlmlakeError if the run keeps no readout_states, if the last block's lens is not the stored logits, if
    last_block comes before a block that is kept, or if there are no labelled examples.
    """
    data = dataset_of(source)
    readouts = Readouts.of(data)
    found, deviation = example_margins(data, readouts, parameters.last_block)
    blocks = block_numbers(readouts.layers)
    rows: list[Row] = []
    for chosen in populations(data, rule):
        rows += _rows(chosen, found, blocks, parameters.threshold, seed)
        rows.append(_deviation_row(chosen, readouts, deviation, parameters.last_block))
    return MarginsResult(result_table(rows), found)


def example_margins(
    data: xr.Dataset, readouts: Readouts, last_block: str | None = None
) -> tuple[xr.Dataset, np.ndarray | None]:
    """The `.examples` of `margins` of all examples of the Dataset, and [n] deviations of the lens from the logits."""
    said, deviation = readouts.said(last_block)
    found = readouts.lens(said).drop_vars(["gold_token", "other_token"])
    if not readouts.yes_or_no:
        found = found.drop_vars("yes_minus_no")
    if "blank_states" in readouts.data:
        found["margin_gold_blank"] = readouts.lens(said, "blank_states")["margin_gold"]
        found["image_effect"] = found["margin_gold"] - found["margin_gold_blank"]
    blocks = block_numbers(readouts.layers)
    found["commit_layer"] = ("row", commit_layers(found["margin_gold"].values, blocks))
    found = found.isel(row=readouts.place).rename(row="example")
    labelled = found.assign_coords(example=data["example"].values)
    return labelled, None if deviation is None else deviation[readouts.place]


def _rows(chosen: Population, found: xr.Dataset, blocks: np.ndarray, threshold: float, seed: int) -> Iterator[Row]:
    layers, golds = [str(name) for name in found["layer"].values], chosen.data["gold"].values
    of_gold = replace(chosen, note=joined(chosen.note, gold_note(golds)))
    knows = joined(KNOWS_GOLD, DECIDES if all(is_yes_or_no(gold) for gold in set(golds)) else None)
    curves = {
        metric: Curve(
            metric,
            chosen if metric in WITHOUT_GOLD else of_gold,
            found[metric].values[chosen.places],
            layers,
            UNTOLD,
        )
        for metric in LENS_METRICS
        if metric in found
    }
    for curve in curves.values():
        yield from curve.means()
    if "yes_minus_no" in curves:
        sizes = np.abs(found["yes_minus_no"].values[chosen.places])
        curves["yes_minus_no_size"] = Curve("yes_minus_no_size", chosen, sizes, layers, "without yes and no")
    for metric in CONFIDENCES:
        if metric in curves:
            yield from curves[metric].associations(seed, knows if metric == "margin_gold" else None)
    yield from separation_rows(curves["margin_gold"], blocks, threshold, seed)
    if "image_effect" in curves:
        yield from peak_rows(curves["image_effect"], blocks, "image_effect_peak", seed)
    commit = found["commit_layer"].values[chosen.places][:, None]
    for row in Curve("commit_layer", of_gold, commit, [""], UNTOLD).means():
        yield {**row, "layer": None}


def _deviation_row(chosen: Population, readouts: Readouts, deviation: np.ndarray | None, last: str | None) -> Row:
    metric, statistic, layer = "lens_deviation", "max", readouts.layers[-1]
    if deviation is None:
        why = f"the plan keeps no {'logits' if 'logits' not in readouts.data else last} to compare the lens with"
        return chosen.row(metric, statistic, None, why, layer=layer)
    assured = last or whole_stack(readouts.layers)
    note = None if assured else f"the plan keeps some layers only: {layer} need not be the model's last block"
    return {
        **chosen.row(metric, statistic, None, note, layer=layer),
        "value": float(deviation[chosen.places].max()),
    }


MARGINS = Analysis(
    "margins",
    "logit margins by layer, the image's effect on them",
    margins,
    reads=("readout_states", "unembedding", "final_norm"),
    takes=("logits", "blank_states"),
    headline=(
        "margin_gold_right",
        "margin_gold_wrong",
        "separation_onset",
        "separation_peak",
        "zero_crossing",
        "image_effect_peak",
        "commit_layer",
        "lens_deviation",
    ),
    parameters=DEFAULTS,
)
