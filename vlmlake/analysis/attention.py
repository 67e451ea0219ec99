"""Attention structure: how the answer's attention spreads over the image, and whether that tells if it is right."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from vlmlake.analysis.contract import kept_array
from vlmlake.analysis.population import Population, population, splits_of
from vlmlake.analysis.rules import DEFAULT_RULE
from vlmlake.analysis.statistics.correlation import point_biserial
from vlmlake.errors import VlmlakeError
from vlmlake.store_schema.schema import EMBED, PROMPT_LAST, ROLES

ANSWER = "answer"
ROW_SUM_TOLERANCE = 5e-3
"""How far a stored softmax row's sum may be from 1; float16 rounding of 650 keys stays below 1e-3."""


def spatial_entropy(data: xr.Dataset, rule: str = DEFAULT_RULE, seed: int = 0) -> list[dict[str, Any]]:
    """Point-biserial correlation of normalised spatial entropy with correctness; rows of tables.RESULTS.

    For the queries `answer` (the answer's tokens, the default of the study) and `prompt_last`; per block, and for the
    mean over blocks; pooled over the splits and in each.

    Method: H_s of arXiv 2605.08200, over ln S. A statistic that cannot be computed is a row without a value whose note
    says why.

    Raises VlmlakeError if stored rows are damaged.
    """
    whole = {queries: normalised_entropy(data, queries) for queries in _kept_queries(data)}
    rows = []
    labels_only = data.drop_vars(list(data.data_vars))
    for split in splits_of(data):
        chosen = population(labels_only, split, rule)
        for queries, entropy in whole.items():
            told = chosen.data["answer_tokens"].values > 0
            part = chosen.where(told, "without an answer token") if queries == ANSWER else chosen
            values = entropy.sel(example=part.data["example"].values)
            undefined = np.isnan(values.values).any(axis=1)
            if undefined.any():
                example = values["example"].values[np.argmax(undefined)]
                raise VlmlakeError(f"example {example} has no spatial entropy at {queries}: the store is damaged")
            per_layer = {str(name): values.sel(layer=name).values for name in values["layer"].values}
            per_layer["mean"] = values.values.mean(axis=1)
            rows += [_correlation(part, queries, layer, column) for layer, column in per_layer.items()]
    return rows


def _kept_queries(data: xr.Dataset) -> tuple[str, ...]:
    """A plan may have kept the readout's attention at prompt_last alone."""
    answers = "attention" in data or data.sizes["position"] > 1
    return (ANSWER, PROMPT_LAST) if answers else (PROMPT_LAST,)


def _correlation(chosen: Population, queries: str, layer: str, values: np.ndarray) -> dict[str, Any]:
    metric, statistic = "entropy_normalised", "point_biserial"
    try:
        estimate = point_biserial(values, chosen.correct, chosen.images, f"{metric} at {layer}")
    except VlmlakeError as error:
        return chosen.refusal(metric, statistic, error, layer=layer, position=queries)
    return chosen.row(metric, statistic, estimate, layer=layer, position=queries)


def normalised_entropy(data: xr.Dataset, queries: str) -> xr.DataArray:
    """Spatial entropy of the image attention, -sum m ln m / ln S, between 0 (one patch) and 1 (uniform).

    Returns [example, layer], float64, blocks only; NaN where an example has no such query.
    """
    maps = image_maps(data, queries).astype(np.float64)
    patches = _image_tokens(data).sum("prefix_token")
    entropy = -(maps * np.log(maps.where(maps > 0, 1))).sum("prefix_token", skipna=False)
    return entropy / np.log(patches)


def image_maps(data: xr.Dataset, queries: str) -> xr.DataArray:
    """Attention to each image token, mean over heads and queries, re-normalised to sum 1 over the image.

    queries: `answer` for all of the answer's tokens (those whose position the plan keeps), `prompt_last` for the token
    that predicts the first of them. Returns [example, layer, prefix_token], float32 in memory, blocks only, 0 at
    tokens that are no image; NaN where an example has no such query.

    Raises VlmlakeError if one of those softmax rows does not sum to 1, looks ahead, or gives the image nothing at all:
    the store is wrong then, and no uniform map is put in its place.
    """
    if kept_array(data, "attention", "readout_attention") == "attention":
        found, asked = _from_rows(data, queries)
    else:
        found, asked = _from_readout(data, queries)
    _refuse_rows(found["off_one"] > ROW_SUM_TOLERANCE, "do not sum to 1")
    _refuse_rows(found["ahead"] > 0, "look at tokens after their own")
    mass = found["on_image"].sum("prefix_token")
    _refuse_rows((mass <= 0) & asked, "give the image nothing at all")
    maps: xr.DataArray = (found["on_image"] / mass).where(asked).transpose("example", "layer", "prefix_token")
    return maps


def _from_rows(data: xr.Dataset, queries: str) -> tuple[xr.Dataset, xr.DataArray]:
    """The mean over heads and queries at image tokens, what speaks against it, and which examples have a query."""
    weights = _query_weights(data, queries)
    rows = _of_blocks(data["attention"]).where(weights > 0, 0).fillna(0)
    prefix_tokens = data.sizes["prefix_token"]
    on_prefix = (rows * weights).sum("query").mean("head").isel(key=slice(0, prefix_tokens)).rename(key="prefix_token")
    key, query = (
        xr.DataArray(np.arange(data.sizes["key"]), dims="key"),
        xr.DataArray(np.arange(weights.sizes["query"]), dims="query"),
    )
    found = xr.Dataset(
        {
            "on_image": on_prefix.where(_image_tokens(data), 0),
            "off_one": abs(rows.sum("key") - 1).where(weights > 0, 0).max(["head", "query"]),
            "ahead": rows.where(key > prefix_tokens + query, 0).max(["head", "query", "key"]),
        }
    ).compute()
    return found, weights.sum("query") > 0


def _from_readout(data: xr.Dataset, queries: str) -> tuple[xr.Dataset, xr.DataArray]:
    """As `_from_rows`, where the plan kept the rows over the prefix alone: they sum to 1 at most."""
    names = data["position"].values
    number = xr.DataArray(np.arange(len(names)), dims="position")
    chosen = number == 0 if queries == PROMPT_LAST else (number > 0) & (number <= data["answer_tokens"])
    weights = (chosen / chosen.sum("position").clip(min=1)).astype(np.float32)
    rows = _of_blocks(data["readout_attention"]).where(weights > 0, 0).fillna(0)
    excess = (rows.sum("prefix_token") - 1).clip(min=0).max(["head", "position"])
    on_prefix = (rows * weights).sum("position").mean("head")
    found = xr.Dataset(
        {"on_image": on_prefix.where(_image_tokens(data), 0), "off_one": excess, "ahead": xr.zeros_like(excess)}
    ).compute()
    asked = weights.sum("position") > 0
    return found, asked.broadcast_like(data["example"])


def _of_blocks(rows: xr.DataArray) -> xr.DataArray:
    return rows.sel(layer=rows["layer"].values[rows["layer"].values != EMBED])


def _refuse_rows(wrong: xr.DataArray, what: str) -> None:
    if wrong.any():
        first = wrong.transpose("example", "layer").where(wrong, drop=True).isel(example=0)
        layer = first["layer"].values[int(np.flatnonzero(first == 1)[0])]
        raise VlmlakeError(
            f"attention rows of example {first['example'].item()} at {layer} {what}: the store is damaged"
        )


def _query_weights(data: xr.Dataset, queries: str) -> xr.DataArray:
    """[example, query], float32: equal weights that sum to 1 over the asked queries of an example, else 0."""
    if queries == ANSWER:
        role = data["token_role"].rename(token="query").compute()
        asked = role == ROLES.index("answer")
    elif queries == PROMPT_LAST:
        asked = xr.DataArray(np.arange(data.sizes["query"]), dims="query") == data["suffix_tokens"] - 1
    else:
        raise VlmlakeError(f"unknown queries {queries}: expected {ANSWER} or {PROMPT_LAST}")
    count = asked.sum("query")
    weights: xr.DataArray = (asked / count.where(count > 0, 1)).astype(np.float32).transpose("example", "query")
    return weights


def _image_tokens(data: xr.Dataset) -> xr.DataArray:
    """[example, prefix_token], true at image tokens."""
    roles = data["prefix_token_role"].compute()
    return (roles == ROLES.index("image")).sel(prefix=data["prefix_of"]).drop_vars("prefix")
