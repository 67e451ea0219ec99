"""Neurons: which coordinates of the residual stream and of the MLPs' writes tell right answers from wrong ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import polars as pl
import xarray as xr

from vlmlake.analysis.blocks import computed
from vlmlake.analysis.contract import Analysis, Source, dataset_of, kept_array
from vlmlake.analysis.drawing import draw_over_layers, new_axes
from vlmlake.analysis.margins.curves import varying_auroc
from vlmlake.analysis.neurons.directions import Directions, directions
from vlmlake.analysis.neurons.halves import kept_images
from vlmlake.analysis.neurons.l1 import l1_weights
from vlmlake.analysis.neurons.layer import ATTRIBUTION, Halves, Ranked, ranked_layer
from vlmlake.analysis.population import Population, joined, population
from vlmlake.analysis.result import Result, result_table
from vlmlake.analysis.statistics.estimate import require_two_classes
from vlmlake.answers.rules import DEFAULT_RULE
from vlmlake.errors import VlmlakeError
from vlmlake.store_schema import tables
from vlmlake.store_schema.schema import EMBED, PROMPT_LAST

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SITES = {"resid": "readout_states", "mlp_out": "mlp_write", "attn_out": "attn_write"}
"""The array of each site."""
BEST, ALL = "best", "all"
UNCOMPARED = "one of two halves of the ranking images has nothing to rank neurons by"


@dataclass(frozen=True)
class NeuronParameters:
    """kept_share: of the images, about how much of them rank nothing and are kept for ablation. sites: of SITES, where
    the run keeps them. layers: of the L1 probes, which take long each: `best`, in every site the last block and the
    one whose best neuron has the largest AUROC on the ranking half; `all`; or names, as text with commas between them.
    kept: how many neurons of each ranking are written. stable_top: how many lead a ranking for its stability; a tenth
    of the width if that is less.
    """

    kept_share: float = 0.5
    sites: tuple[str, ...] = ("resid", "mlp_out")
    layers: str | tuple[str, ...] = BEST
    kept: int = 1000
    stable_top: int = 50

    def __post_init__(self) -> None:
        if not 0 < self.kept_share < 1:
            raise VlmlakeError(f"neurons.kept_share is {self.kept_share}, expected a number above 0 and below 1")
        if not self.sites or any(site not in SITES for site in self.sites):
            raise VlmlakeError(f"neurons.sites is {self.sites!r}, expected a list of some of {', '.join(SITES)}")
        for name in ("kept", "stable_top"):
            if getattr(self, name) < 1:
                raise VlmlakeError(f"neurons.{name} is {getattr(self, name)}, expected at least 1")


DEFAULTS = NeuronParameters()
Place = tuple[str, str]
"""A site and a layer."""


class NeuronsResult(Result):
    """Rankings, and the AUROC of every layer's best neuron on images that had no part in choosing it."""

    def plot(self, ax: Axes | None = None) -> Axes:
        """A line a site over the layers, with its interval."""
        axes = new_axes(ax)
        for site in SITES:
            rows = self.rows(metric=f"best_neuron_{site}", statistic="auroc").drop_nulls("value")
            if rows.height:
                draw_over_layers(axes, rows, site, "o-")
        axes.axhline(0.5, color="gray", linewidth=0.5)
        axes.set_ylabel("AUROC of the best neuron, kept images")
        axes.legend()
        return axes


def neurons(
    source: Source, *, rule: str = DEFAULT_RULE, seed: int = 0, parameters: NeuronParameters = DEFAULTS
) -> NeuronsResult:
    """Rankings of coordinates at prompt_last, made on one half of the images; the other is kept for ablation.

    Rankings (tables.RANKINGS; by the score's absolute value): `l1`, |weight| of an L1 probe, standardised, its C chosen
    on inner grouped folds; `d_act`, mean(right) - mean(wrong); `auroc`, |AUROC - 0.5| of the coordinate alone;
    `attribution`, what it adds to logit(gold) - logit(runner-up) on average, in logits, the final norm's scale frozen.

    Rows, whose counts are of the kept half: `best_neuron_<site>` per layer, statistic `auroc`, of the neuron that leads
    the ranking `auroc`, on the kept half, with an interval that resamples images; `<ranking>_stability_<site>` per
    layer, statistic `overlap`: the share of the leading neurons (`at` of them) on which two halves of the ranking
    images agree; `images_ranking` and `images_kept`, statistic `count`. Per example: `kept_for_ablation`, 1 or 0.
    `attribution` is of the examples whose gold answer has a token, the same as in the analysis `attribution`; notes say
    how many they are, or why there is none.

    Method: rankings of arXiv 2605.08200; direct logit attribution after Elhage et al. 2021.

    Raises VlmlakeError for an unknown layer, sites that the run keeps none of, or a half without right and wrong
    answers.
    """
    data = dataset_of(source)
    kept_array(data, "readout_states")
    kept_array(data, *(SITES[site] for site in parameters.sites))
    chosen = population(data, rule=rule)
    columns = _columns(data, chosen, parameters.sites)
    layers = _chosen_layers(parameters.layers, columns)
    kept = kept_images(chosen.images, parameters.kept_share, seed)
    for half, name in ((kept, "kept for ablation"), (~kept, "that rank neurons")):
        try:
            require_two_classes(chosen.correct[half])
        except VlmlakeError as error:
            raise VlmlakeError(f"of the images {name}, {error}") from error
    first = kept_images(chosen.images, 0.5, seed + 1)
    top = max(1, min(parameters.stable_top, data.sizes["hidden"] // 10))
    halves = Halves(chosen.correct, ~kept, first & ~kept, top)
    towards, of_attribution = _directions(data.isel(example=chosen.places[~kept]))
    task = dask.delayed(ranked_layer)  # type: ignore[attr-defined]
    shared = dask.delayed((halves, towards))  # type: ignore[attr-defined]
    found = dict(
        zip(columns, computed([task(values, shared[0], shared[1]) for values in columns.values()]), strict=True)
    )
    ranked: dict[Place, Ranked] = {place: it for place, it in found.items() if it is not None}
    fitted = _best_places(ranked) if layers is None else [place for place in ranked if place[1] in layers]
    weights = _l1(columns, fitted, chosen.where(~kept, "kept"), ~kept, seed)
    rest = chosen.where(kept, "on images that rank neurons")
    rows = [
        *_counts(rest, chosen, kept, of_attribution),
        *_neuron_rows(rest, found, seed),
        *_stability_rows(rest, ranked, top, of_attribution),
        *_l1_rows(rest, weights),
    ]
    of_all = kept_images(data["image_sha256"].values, parameters.kept_share, seed).astype(np.float64)
    examples = xr.Dataset({"kept_for_ablation": ("example", of_all)}, {"example": data["example"].values})
    scores = {place: dict(it.scores) for place, it in ranked.items()}
    for place, found_weights in weights.items():
        if not isinstance(found_weights, VlmlakeError):
            scores[place]["l1"] = abs(found_weights[0])
    rankings = _rankings(data.attrs["run"], rule, scores, parameters.kept)
    return NeuronsResult(result_table(rows), examples, rankings)


def _directions(data: xr.Dataset) -> tuple[Directions | None, str | None]:
    """The directions, or none, and what notes say of the attribution."""
    try:
        found = directions(data)
        return found, found.note
    except VlmlakeError as error:
        return None, f"no attribution: {error}"


def _columns(data: xr.Dataset, chosen: Population, sites: tuple[str, ...]) -> dict[Place, Any]:
    """Of every site that the run keeps and every block the values [n, d], lazily."""
    found = {}
    for site in sites:
        if SITES[site] not in data:
            continue
        values = data[SITES[site]].isel(example=chosen.places)
        values = values.sel(position=PROMPT_LAST) if "position" in values.dims else values
        for layer in map(str, values["layer"].values):
            if layer != EMBED:
                found[site, layer] = values.sel(layer=layer).data
    return found


def _chosen_layers(layers: str | tuple[str, ...], columns: dict[Place, Any]) -> set[str] | None:
    """Labels of the blocks whose L1 probes are asked for; none for the best ones.

    Raises VlmlakeError for a label that is no block of the run.
    """
    if layers == BEST:
        return None
    blocks = list(dict.fromkeys(layer for _, layer in columns))
    if layers == ALL:
        return set(blocks)
    wanted = layers.split(",") if isinstance(layers, str) else list(layers)
    if not wanted or any(layer not in blocks for layer in wanted):
        raise VlmlakeError(
            f"neurons.layers is {','.join(map(str, wanted))}, expected {BEST}, {ALL} or blocks of the run: "
            f"{', '.join(blocks)}"
        )
    return set(wanted)


def _best_places(ranked: dict[Place, Ranked]) -> list[Place]:
    """Of every site the layer whose best neuron has the largest AUROC on the ranking half, and the last one."""
    places = []
    for site in dict.fromkeys(site for site, _ in ranked):
        of_site = [place for place in ranked if place[0] == site]
        best = max(of_site, key=lambda place: ranked[place].scores["auroc"].max())
        places += list(dict.fromkeys([best, of_site[-1]]))
    return places


def _l1(
    columns: dict[Place, Any], places: list[Place], ranking: Population, rows: np.ndarray, seed: int
) -> dict[Place, tuple[np.ndarray, float] | VlmlakeError]:
    task = dask.delayed(_l1_or_why)  # type: ignore[attr-defined]
    tasks = [task(columns[place], rows, ranking.correct, ranking.images, seed) for place in places]
    return dict(zip(places, computed(tasks), strict=True))


def _l1_or_why(
    values: np.ndarray, rows: np.ndarray, correct: np.ndarray, images: np.ndarray, seed: int
) -> tuple[np.ndarray, float] | VlmlakeError:
    try:
        weights, strength = l1_weights(values[rows], correct, images, seed)
    except VlmlakeError as error:
        return error
    if not weights.any():
        return VlmlakeError(f"the L1 probe at C = {strength:g} keeps no coordinate")
    return weights, strength


def _counts(
    rest: Population, chosen: Population, kept: np.ndarray, of_attribution: str | None
) -> Iterator[dict[str, Any]]:
    ranking, held = (float(len(set(chosen.images[half]))) for half in (~kept, kept))
    yield rest.row("images_ranking", "count", None, of_attribution, value=ranking)
    yield rest.row("images_kept", "count", None, value=held)


def _neuron_rows(rest: Population, found: dict[Place, Ranked | None], seed: int) -> Iterator[dict[str, Any]]:
    for (site, layer), ranked in found.items():
        metric, at = f"best_neuron_{site}", _at(layer)
        if ranked is None:
            error = VlmlakeError(f"{site} at {layer} is the same for all examples that rank neurons")
            yield rest.refusal(metric, "auroc", error, **at)
            continue
        name = f"{site}[{layer}]:{ranked.best}"
        estimator = partial(varying_auroc, ranked.kept_values, rest.correct, rest.images, seed, name)
        yield rest.estimated(metric, "auroc", estimator, name, **at)


def _stability_rows(
    rest: Population, ranked: dict[Place, Ranked], top: int, of_attribution: str | None
) -> Iterator[dict[str, Any]]:
    for (site, layer), one in ranked.items():
        for ranking in one.scores:
            overlap = one.overlap.get(ranking)
            why = "two halves of the ranking images" if ranking in one.overlap else UNCOMPARED
            note = joined(why, of_attribution if ranking == ATTRIBUTION else None)
            metric = f"{ranking}_stability_{site}"
            yield rest.row(metric, "overlap", None, note, value=overlap, **_at(layer), at=float(top))


def _l1_rows(
    rest: Population, weights: dict[Place, tuple[np.ndarray, float] | VlmlakeError]
) -> Iterator[dict[str, Any]]:
    for (site, layer), fitted in weights.items():
        metric, at = f"l1_neurons_{site}", _at(layer)
        if isinstance(fitted, VlmlakeError):
            yield rest.refusal(metric, "count", fitted, **at)
        else:
            used = float(np.count_nonzero(fitted[0]))
            of_l1 = f"coordinates that the L1 probe uses, C = {fitted[1]:g}"
            yield rest.row(metric, "count", None, of_l1, value=used, **at)


def _at(layer: str) -> dict[str, str]:
    return {"layer": layer, "position": PROMPT_LAST}


def _rankings(run: str, rule: str, scores: dict[Place, dict[str, np.ndarray]], kept: int) -> pl.DataFrame:
    """Rows of tables.RANKINGS without `condition`; neurons of equal scores in the order of their numbers, unused ones
    (an L1 weight of 0) left out.
    """
    parts = [tables.frame(tables.RANKINGS.empty_table()).drop("condition")]
    for (site, layer), by_ranking in scores.items():
        for ranking, values in by_ranking.items():
            order = np.argsort(-abs(values), kind="stable")[:kept]
            order = order[values[order] != 0]
            frame = pl.DataFrame({"neuron": order, "rank": np.arange(1, len(order) + 1), "score": values[order]})
            labels = {"run": run, "rule": rule, "ranking": ranking, "site": site, "layer": layer}
            frame = frame.with_columns(pl.lit(value).alias(name) for name, value in labels.items())
            parts.append(frame.select(parts[0].columns).cast(parts[0].schema))
    return pl.concat(parts)


NEURONS = Analysis(
    "neurons",
    "rankings of neurons by what they tell of correctness, on images apart from those kept for ablation",
    neurons,
    reads=("readout_states",),
    takes=("mlp_write", "attn_write", "logits", "unembedding", "final_norm"),
    labelled=True,
    parameters=DEFAULTS,
)
