"""Direct logit attribution: what each block's attention and MLP add to the gold answer's lead over the runner-up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import xarray as xr
from dask.delayed import Delayed

from vlmlake.analysis.blocks import computed, example_pieces
from vlmlake.analysis.contract import Analysis, NoParameters, Source, dataset_of, kept_array
from vlmlake.analysis.drawing import draw_over_layers, new_axes
from vlmlake.analysis.margins.curves import Curve
from vlmlake.analysis.margins.layers import whole_stack
from vlmlake.analysis.margins.lens import rms
from vlmlake.analysis.margins.readouts import Readouts, require_last_block, stored_lead
from vlmlake.analysis.population import Population, joined, populations
from vlmlake.analysis.result import Result, Row, result_table
from vlmlake.answers.rules import DEFAULT_RULE
from vlmlake.answers.spellings import NONE, gold_note
from vlmlake.errors import VlmlakeError
from vlmlake.store_schema.schema import EMBED, PROMPT_LAST

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COMPLETENESS_TOLERANCE = 0.1
"""How far the parts of a margin may be from the margin, over the root of the sum of squares of what each coordinate of
the final residual stream contributes to it.

Every write and every block's sum is rounded. Largest of the three tiny families, of four blocks: 1e-5 in float32, 0.001
in float16, 0.012 in bfloat16; independent errors of 32 blocks add up to three times as much. A block whose write is
missing is off by that write.
"""
PARTS = ("attribution_attn", "attribution_mlp", "attribution_embed")
UNTOLD = "without a token for the gold answer"
DEFAULTS = NoParameters()


class AttributionResult(Result):
    """What each block's halves wrote for the gold answer, and the MLPs' share of it."""

    def plot(self, ax: Axes | None = None) -> Axes:
        """Mean attribution of attention and MLP by block, with the bands of their intervals."""
        axes = new_axes(ax)
        for metric, name in (("attribution_attn", "attention"), ("attribution_mlp", "MLP")):
            rows = self.rows(metric=metric, statistic="mean", split="all").drop_nulls("value")
            draw_over_layers(axes, rows, name)
        axes.axhline(0, linewidth=0.5, color="grey")
        axes.set_ylabel("logits added to gold minus runner-up")
        axes.legend()
        return axes


def attribution(
    source: Source, *, rule: str = DEFAULT_RULE, seed: int = 0, parameters: NoParameters = DEFAULTS
) -> AttributionResult:
    """Writes at prompt_last projected on unembedding[gold] - unembedding[runner-up], scale of the final norm frozen.

    Gold is its best-scoring spelling (of `Vocabulary.gold`, as in `margins`) at the last layer that is kept, which must
    be the model's last block, the runner-up the best other token there. A write w counts
    w * scale / rms(final residual stream) . (U[gold] - U[runner-up]), in logits: with the scale frozen the parts add up
    to the final margin (Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"). Where the plan keeps
    no logits to tell the last block by, the note of every row says so.

    `.examples`, float64: attribution_attn and attribution_mlp over example and layer (blocks), attribution_embed over
    example (where the run keeps the layer `embed`). NaN where no token spells the gold answer.

    `.table`: `mean` of each, by layer. mlp_share_signed, statistic `share`: sum of the MLPs' writes over the sum of all
    writes, over examples, in all and by layer; it leaves [0, 1] where parts cancel. mlp_share_absolute: the same of
    their absolute values. Both are kept: the study's 82.1 % for LLaVA (arXiv 2605.08200) is 34.7 % over all layers, and
    changes with the sign convention. Intervals resample images. completeness_gap, statistic `max`: the largest
    |embed + all writes - final margin|, where all blocks are kept.

    Raises VlmlakeError if the run lacks one of the arrays, if the last layer that is kept does not give the stored
    logits, if a write is no number or the parts do not add up to the margin, or if there are no labelled examples.
    """
    data = dataset_of(source)
    found = example_attribution(data)
    rows: list[Row] = []
    for chosen in populations(data, rule):
        rows += _rows(chosen, found, seed)
    return AttributionResult(result_table(rows), found.parts)


@dataclass(frozen=True)
class Attributed:
    """parts: `.examples` of `attribution`. gap: [n], |sum of the parts - final margin|, or none, and `why` there is
    none. unsure: why the last layer need not be the model's last block; none where it is.
    """

    parts: xr.Dataset
    gap: np.ndarray | None
    why: str | None
    unsure: str | None


def example_attribution(data: xr.Dataset) -> Attributed:
    """Attribution of all examples of a Dataset.

    Raises VlmlakeError if the last layer is not the model's last block, for a write that is no number, or a gap beyond
    COMPLETENESS_TOLERANCE.
    """
    for name in ("attn_write", "mlp_write"):
        kept_array(data, name)
    readouts = Readouts.of(data)
    layers = readouts.layers
    blocks = [name for name in layers if name != EMBED]
    if not blocks:
        raise VlmlakeError(f"run {data.attrs['run']} keeps no block's writes, only {', '.join(layers)}")
    final = readouts.lens(np.full(len(readouts.gold), NONE), layers=layers[-1:]).isel(layer=0)
    unsure = _last_block(readouts, final)
    told = np.isfinite(final["margin_gold"].values)
    projected = _projections(readouts, final, blocks)
    _require_numbers(projected, told, readouts)
    parts: dict[str, tuple[Any, np.ndarray]] = {
        "attribution_attn": (("row", "layer"), projected["attn_write"]),
        "attribution_mlp": (("row", "layer"), projected["mlp_write"]),
    }
    gap, why = None, None
    if EMBED in layers:
        parts["attribution_embed"] = ("row", projected[EMBED])
    if EMBED in layers and whole_stack(layers):
        total = projected[EMBED] + projected["attn_write"].sum(axis=1) + projected["mlp_write"].sum(axis=1)
        gap = np.abs(total - final["margin_gold"].values)
        _require_complete(gap, projected["spread"], told, readouts)
    else:
        why = f"the plan keeps {', '.join(layers)} only: the parts are not the whole margin"
    found = xr.Dataset(parts, coords={"layer": blocks}).isel(row=readouts.place).rename(row="example")
    found = found.assign_coords(example=data["example"].values)
    return Attributed(found, None if gap is None else gap[readouts.place], why, unsure)


def _last_block(readouts: Readouts, final: xr.Dataset) -> str | None:
    """Why the last layer that is kept need not be the model's last block; none where the stored logits say that it is.

    Raises VlmlakeError where they say that it is not.
    """
    last = readouts.layers[-1]
    if "logits" not in readouts.data:
        return f"the plan keeps no logits: {last} need not be the model's last block, which sets the final norm's scale"
    pairs, task = _pairs(final), dask.delayed(stored_lead)  # type: ignore[attr-defined]
    pieces = example_pieces(readouts.data["logits"].sel(position=PROMPT_LAST))
    stored = computed([task(part.data, pairs[piece]) for piece, part in pieces])
    require_last_block(last, final["margin_gold"].values, np.concatenate(stored, axis=1))
    return None


def _pairs(final: xr.Dataset) -> np.ndarray:
    """[m, 2], ids of gold and runner-up, NaN where there is no gold."""
    return np.stack([final["gold_token"].values, final["other_token"].values], axis=1)


def _projections(readouts: Readouts, final: xr.Dataset, blocks: list[str]) -> dict[str, np.ndarray]:
    """Per row: `attn_write` and `mlp_write` [m, blocks], `embed` [m], and `spread` [m], the root of the sum of squares
    of what each coordinate of the final residual stream adds to the margin.
    """
    last, m = readouts.layers[-1], len(readouts.gold)
    states = readouts.states()
    pairs = _pairs(final)
    found: dict[str, np.ndarray] = {name: np.full((m, len(blocks)), np.nan) for name in ("attn_write", "mlp_write")}
    found |= {name: np.full(m, np.nan) for name in (EMBED, "spread")}
    tasks: list[Delayed] = []
    targets: list[tuple[np.ndarray, Any]] = []
    for piece, part in example_pieces(states.sel(layer=last)):
        direction = _direction(part.data, readouts.scale, readouts.epsilon, readouts.unembedding, pairs[piece])
        for name in ("attn_write", "mlp_write"):
            for number, layer in enumerate(blocks):
                tasks.append(_dot(readouts.data[name].sel(layer=layer).data[piece], direction))
                targets.append((found[name], (piece, number)))
        tasks.append(_spread(part.data, direction))
        targets.append((found["spread"], (piece,)))
        if EMBED in readouts.layers:
            tasks.append(_dot(states.sel(layer=EMBED).data[piece], direction))
            targets.append((found[EMBED], (piece,)))
    for (array, place), values in zip(targets, computed(tasks), strict=True):
        array[place] = values
    return found


@dask.delayed  # type: ignore[attr-defined, untyped-decorator]
def _direction(
    states: np.ndarray, scale: np.ndarray, epsilon: float, unembedding: np.ndarray, pairs: np.ndarray
) -> np.ndarray:
    """[g, hidden], float32: what a write is multiplied with. pairs: [g, 2], ids of gold and runner-up, NaN for none."""
    told = np.isfinite(pairs).all(axis=1)
    ids = np.where(told[:, None], pairs, 0).astype(np.int64)
    apart = (unembedding[ids[:, 0]] - unembedding[ids[:, 1]]) * scale / rms(states, epsilon)
    return np.where(told[:, None], apart, np.float32(np.nan))


@dask.delayed  # type: ignore[attr-defined, untyped-decorator]
def _dot(writes: np.ndarray, direction: np.ndarray) -> np.ndarray:
    projected: np.ndarray = np.vecdot(writes, direction)
    return projected


@dask.delayed  # type: ignore[attr-defined, untyped-decorator]
def _spread(states: np.ndarray, direction: np.ndarray) -> np.ndarray:
    spread: np.ndarray = np.sqrt(np.square(states * direction).sum(axis=1))
    return spread


def _require_numbers(projected: dict[str, np.ndarray], told: np.ndarray, readouts: Readouts) -> None:
    """told: [m], bool, the examples that have a gold answer."""
    sources = {"attn_write": "attn_write", "mlp_write": "mlp_write"}
    if EMBED in readouts.layers:
        sources[EMBED] = f"readout_states at {EMBED}"
    for name, source in sources.items():
        lost = told & ~np.isfinite(projected[name].reshape(len(told), -1)).all(axis=1)
        if lost.any():
            example = readouts.data["example"].values[lost.argmax()]
            raise VlmlakeError(f"{source} of example {example} hold something that is no number")


def _require_complete(gap: np.ndarray, spread: np.ndarray, told: np.ndarray, readouts: Readouts) -> None:
    """gap, spread: [m]. told: [m], bool, the examples that have a gold answer."""
    off = gap[told] / np.where(spread[told] == 0, np.inf, spread[told])
    if not (off <= COMPLETENESS_TOLERANCE).all():
        worst = np.flatnonzero(told)[off.argmax()]
        raise VlmlakeError(
            f"the writes and the embeddings of example {readouts.data['example'].values[worst]} are {gap[worst]:.3g} "
            f"off its final margin, more than rounding explains: the store is damaged"
        )


def _rows(chosen: Population, found: Attributed, seed: int) -> Iterator[Row]:
    layers = [str(name) for name in found.parts["layer"].values]
    golds = chosen.data["gold"].values
    attn, mlp = (found.parts[name].values[chosen.places] for name in PARTS[:2])
    told = np.isfinite(attn).all(axis=1) & np.isfinite(mlp).all(axis=1)
    chosen = chosen.where(told, UNTOLD)
    chosen = replace(chosen, note=joined(chosen.note, gold_note(golds), found.unsure))
    attn, mlp = attn[told], mlp[told]
    curves = {
        "attribution_attn": Curve("attribution_attn", chosen, attn, layers, UNTOLD),
        "attribution_mlp": Curve("attribution_mlp", chosen, mlp, layers, UNTOLD),
    }
    if "attribution_embed" in found.parts:
        embed = found.parts["attribution_embed"].values[chosen.places][:, None]
        curves["attribution_embed"] = Curve("attribution_embed", chosen, embed, [EMBED], UNTOLD)
    for curve in curves.values():
        yield from curve.means(by_correctness=False)
    one = curves["attribution_mlp"]
    for metric, halves in (("mlp_share_signed", (mlp, attn)), ("mlp_share_absolute", (np.abs(mlp), np.abs(attn)))):
        whole = [half.sum(axis=1) for half in halves]
        yield one.derived(metric, "share", _share(*whole), seed, found.why)
        for number, layer in enumerate(layers):
            share = _share(*(half[:, number] for half in halves))
            yield {**one.derived(metric, "share", share, seed), "layer": layer}
    row = chosen.row("completeness_gap", "max", None, found.why)
    gaps = [] if found.gap is None else found.gap[chosen.places]
    yield {**row, "value": max((float(gap) for gap in gaps if np.isfinite(gap)), default=None)}


def _share(part: np.ndarray, rest: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Weighted sum of part over that of part + rest, both [n], as a function of weights [k, n] that returns [k].

    Unlike `proportions.ratio`, parts that cancel may add up to less than 0.
    """

    def share(weights: np.ndarray) -> np.ndarray:
        weights = weights.astype(np.float64)
        mine, all_of_it = weights @ part, weights @ (part + rest)
        shares: np.ndarray = np.divide(mine, all_of_it, out=np.full(len(weights), np.nan), where=all_of_it != 0)
        return shares

    return share


ATTRIBUTION = Analysis(
    "attribution",
    "what attention and MLPs write for the gold answer, block by block",
    attribution,
    reads=("attn_write", "mlp_write", "readout_states", "unembedding", "final_norm"),
    takes=("logits",),
)
