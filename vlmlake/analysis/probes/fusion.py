"""Fusion: one logistic regression on every number that a monitor has of an answer before it knows the gold one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import xarray as xr

from vlmlake.analysis.contract import Analysis, Source, dataset_of
from vlmlake.analysis.layer_order import in_order
from vlmlake.analysis.population import joined, population
from vlmlake.analysis.probes.one_probe import DEFAULTS, FoldParameters, OneProbeResult, one_probe
from vlmlake.analysis.rules import DEFAULT_RULE
from vlmlake.errors import VlmlakeError
from vlmlake.store_schema.schema import PROMPT_LAST

COORDINATES = ("first_log_prob", "first_gap", "first_entropy")
SUMMARISED = ("entropy_normalised", "mass_top10", "mass_top30", "gini", "image_mass", "lens_entropy", "clusters_")
"""Beginnings of the names of metrics of which the mean over the layers and the last layer are features."""
EVERY_LAYER = ("margin_pred",)
MAGNITUDES = ("yes_minus_no",)
"""Of which the last layer's absolute value is a feature: how decided, not which way."""
SINGLE = ("self_consistency", "probe_nested")


def fusion(
    source: Source,
    *,
    rule: str = DEFAULT_RULE,
    seed: int = 0,
    parameters: FoldParameters = DEFAULTS,
    metrics: xr.Dataset | None = None,
) -> OneProbeResult:
    """AUROC of correctness out of fold from all per-example metrics together; folds and solver are those of `probes`.

    Features, at prompt_last where a metric has positions: of SUMMARISED the mean over layers and the last layer, of
    EVERY_LAYER all layers, of MAGNITUDES the last layer's absolute value, SINGLE and the output's own COORDINATES.
    Nothing that knows the gold answer is among them (`margin_gold` and `rank_gold` do). metrics: per-example numbers of
    the other analyses as Result.examples; without them COORDINATES alone, and the note says so. A feature that is
    constant, or no number for some example, is left out by name.

    `probe_nested` is the probe's probability out of fold. With the same seed its folds are those of this fusion, so
    that no example's probability came from a model that has seen its image. In a training part the probabilities of the
    other folds come from models that were trained on the tested fold too; that touches one weight of the fusion, never
    a tested example's own score.

    Rows and per-example numbers as `one_probe` says, metric `fusion`.

    Raises VlmlakeError for a single class, fewer images than folds, too few errors, or no feature at all.
    """
    data = dataset_of(source)
    chosen = population(data, rule=rule)
    columns = {name: chosen.data[name].values.astype(np.float64) for name in COORDINATES}
    if metrics:
        columns |= dict(_features(in_order(metrics.reindex(example=chosen.ids))))
    unknown = [name for name, values in columns.items() if not np.isfinite(values).all()]
    constant = [name for name, values in columns.items() if name not in unknown and np.ptp(values) == 0]
    used = {name: values for name, values in columns.items() if name not in (*unknown, *constant)}
    if not used:
        raise VlmlakeError(f"none of {', '.join(columns)} varies over the {len(chosen)} examples")
    note = joined(
        f"{len(used)} features",
        "of the output alone: no metrics of other analyses were given" if not metrics else None,
        f"constant: {', '.join(constant)}" if constant else None,
        f"no number for some example: {', '.join(unknown)}" if unknown else None,
    )
    return one_probe(data, chosen, np.stack(list(used.values()), axis=1), "fusion", seed, parameters, note)


def _features(metrics: xr.Dataset) -> Iterator[tuple[str, np.ndarray]]:
    """Name and values [n] of every feature that these metrics give."""
    for name in map(str, metrics.data_vars):
        values = metrics[name]
        if "position" in values.dims:
            if PROMPT_LAST not in values["position"].values:
                continue
            values = values.sel(position=PROMPT_LAST)
        if name in SINGLE and values.dims == ("example",):
            yield name, values.values
        elif "layer" in values.dims:
            # Merged with others, a metric of blocks alone has `embed` too, and no number there.
            by_layer = values.transpose("example", "layer").dropna("layer", how="all")
            if by_layer.sizes["layer"]:
                yield from _of_layers(name, by_layer)


def _of_layers(name: str, by_layer: xr.DataArray) -> Iterator[tuple[str, np.ndarray]]:
    layers, values = [str(layer) for layer in by_layer["layer"].values], by_layer.values
    if name.startswith(SUMMARISED):
        yield f"{name} mean", values.mean(axis=1)
        yield f"{name} {layers[-1]}", values[:, -1]
    elif name in EVERY_LAYER:
        yield from ((f"{name} {layer}", column) for layer, column in zip(layers, values.T, strict=True))
    elif name in MAGNITUDES:
        yield f"|{name}| {layers[-1]}", abs(values[:, -1])


FUSION = Analysis(
    "fusion",
    "one regression on every metric that needs no gold answer",
    fusion,
    after=("attention", "margins", "consistency", "probes"),
    labelled=True,
    parameters=DEFAULTS,
)
