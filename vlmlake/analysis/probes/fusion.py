"""Fusion: one logistic regression on every number that a monitor has of an answer before it knows the gold one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import xarray as xr

from vlmlake.analysis.contract import Analysis, Source, dataset_of
from vlmlake.analysis.layer_order import in_order
from vlmlake.analysis.population import joined, population
from vlmlake.analysis.probes.one_probe import DEFAULTS, FoldParameters, OneProbeResult, one_probe
from vlmlake.analysis.probes.out_of_fold import Design, design
from vlmlake.analysis.probes.probes import NESTED, without_fold
from vlmlake.answers.rules import DEFAULT_RULE
from vlmlake.errors import VlmlakeError
from vlmlake.store_schema.schema import PROMPT_LAST

COORDINATES = ("first_log_prob", "first_gap", "first_entropy")
SUMMARISED = ("entropy_normalised", "mass_top10", "mass_top30", "gini", "image_mass", "lens_entropy", "clusters_")
"""Beginnings of the names of metrics of which the mean over the layers and the last layer are features."""
EVERY_LAYER = ("margin_pred",)
MAGNITUDES = ("yes_minus_no",)
"""Of which the last layer's absolute value is a feature: how decided, not which way."""
SINGLE = ("self_consistency",)


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
    EVERY_LAYER all layers, of MAGNITUDES the last layer's absolute value, SINGLE, `probe_nested` and the output's own
    COORDINATES. Nothing that knows the gold answer is among them (`margin_gold` and `rank_gold` do). metrics:
    per-example numbers of the other analyses as Result.examples; without them COORDINATES alone, and the note says so.
    A feature that is constant, or no number for some example, is left out by name.

    `probe_nested` alone has learnt from labels, and is stacked (Wolpert 1992) so that no label of a tested fold reaches
    the regression that is tested on it: the tested examples have the probe's probability out of that fold, the training
    part that out of its own inner folds (`probe_nested_without_fold_<k>`). This needs the probe's outer folds to be
    those of this fusion, as they are for the same examples, seed and number of folds; unless each of these columns has
    a number for exactly the training part of its fold, `probe_nested` is left out by name. The probe's layer was chosen
    on that training part, so that its weight may be generous; the tested examples have no part in that either.

    This fusion's own inner folds are not held to that: the training part of an inner fold has probabilities of models
    that were trained on its tested part. Only Platt's sigmoid is fitted on them: the AUROC, of logits of the outer
    folds, is untouched, and the probabilities may be somewhat too sure.

    Rows and per-example numbers as `one_probe` says, metric `fusion`.

    Raises VlmlakeError for a single class, fewer images than folds, too few errors, or no feature at all.
    """
    data = dataset_of(source)
    chosen = population(data, rule=rule)
    plan = design(chosen.correct, chosen.images, parameters.folds, parameters.inner_folds, seed)
    without = None
    columns = {name: chosen.data[name].values.astype(np.float64) for name in COORDINATES}
    if metrics:
        given = in_order(metrics.reindex(example=chosen.ids))
        columns |= dict(_features(given))
        if (nested := _single(given, NESTED)) is not None:
            try:
                columns[NESTED] = _stacked(nested, given, plan)
            except VlmlakeError as error:
                without = f"without {NESTED}: {error}"
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
        without,
    )
    features = np.stack(np.broadcast_arrays(*used.values()), axis=-1)
    return one_probe(data, chosen, features, "fusion", plan, seed, note)


def _stacked(nested: np.ndarray, metrics: xr.Dataset, plan: Design) -> np.ndarray:
    """[folds, n], `probe_nested` as each outer fold may know it: out of that fold where it tests, else without it.

    nested: [n], `probe_nested`.

    Raises VlmlakeError if the probe's outer folds are not those of the plan.
    """
    folds = range(len(plan.folds))
    found = [_single(metrics, without_fold(fold)) for fold in folds]
    inside = np.array([np.full(len(nested), np.nan) if values is None else values for values in found])
    training = plan.strata != np.array(folds)[:, None]
    if not (np.isfinite(inside) == (training & np.isfinite(nested))).all():
        raise VlmlakeError(f"its folds are not the {len(folds)} of this fusion, whose tested labels it may have seen")
    return np.where(training, inside, nested)


def _features(metrics: xr.Dataset) -> Iterator[tuple[str, np.ndarray]]:
    """Name and values [n] of every feature that these metrics give."""
    for name in map(str, metrics.data_vars):
        values = _at_prompt_last(metrics[name])
        if values is None:
            continue
        if name in SINGLE and values.dims == ("example",):
            yield name, values.values
        elif "layer" in values.dims:
            # Merged with others, a metric of blocks alone has `embed` too, and no number there.
            by_layer = values.transpose("example", "layer").dropna("layer", how="all")
            if by_layer.sizes["layer"]:
                yield from _of_layers(name, by_layer)


def _at_prompt_last(values: xr.DataArray) -> xr.DataArray | None:
    """A metric's numbers at prompt_last, where it has positions; None if it has others only."""
    if "position" not in values.dims:
        return values
    return values.sel(position=PROMPT_LAST) if PROMPT_LAST in values["position"].values else None


def _single(metrics: xr.Dataset, name: str) -> np.ndarray | None:
    """[n], of a metric with one number an example; None where there is none."""
    values = _at_prompt_last(metrics[name]) if name in metrics else None
    return values.values if values is not None and values.dims == ("example",) else None


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
