"""The study's table: every published number, and ours beside it, family by family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from vlmlake.analysis.analyze import CODE, content_id
from vlmlake.analysis.causal.described import closest, fitting_conditions
from vlmlake.analysis.layer_order import BLOCK, block_number
from vlmlake.analysis.population import joined
from vlmlake.analysis.published import FAMILIES, LLAVA, PUBLISHED, TOP_NEURONS, Published
from vlmlake.analysis.result import BOUNDS
from vlmlake.answers.rules import DEFAULT_RULE, require_rule
from vlmlake.errors import VlmlakeError
from vlmlake.store_schema.lake import Lake

UNTOLD = "-"
"""In place of a value that there is not."""

LAYER_STATISTICS = ("argmin", "layer")
"""Whose values are numbers of blocks."""

SCHEMA = {
    "run": pl.String,
    "family": pl.String,
    "quantity": pl.String,
    "where": pl.String,
    "published": pl.String,
    "ours": pl.String,
    "value": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "n": pl.Int64,
    "n_images": pl.Int64,
    "note": pl.String,
    "own_note": pl.String,
}


def study(lake: Lake, run: str | None = None, rule: str = DEFAULT_RULE) -> pl.DataFrame:
    """Every published number with the statistic of each run of its family that answers the same question; of a family
    without a run the published ones alone.

    Reads what `analyze` wrote and computes nothing. ours: the value with its 95 % interval in words, in the unit of the
    published one; `value`, `low` and `high` are its numbers. Where several interventions fit it is the one whose
    settings are closest to the defaults, the last of these; own_note says which, and of how many. note: what to know of
    the published one, or why the two cannot be compared. own_note: what the analysis says of ours, for instance why
    there is no value.

    Raises VlmlakeError for an unknown rule or run, or if no run of those that are asked was analyzed under the rule.
    """
    require_rule(rule)
    results = lake.table("results").filter(pl.col("condition").is_null())
    rankings = lake.table("rankings").filter(pl.col("condition").is_null())
    interventions = lake.table("interventions")
    rows: list[dict[str, Any]] = []
    asked = [lake.run(run).name] if run else lake.runs
    if results.filter(pl.col("run").is_in(asked), pl.col("rule") == rule).is_empty():
        raise VlmlakeError(f"no run was analyzed under the rule {rule}: run `vlmlake analyze --rule {rule}` first")
    for name in asked:
        there = lake.run(name)
        family = str(there.record.identity.get("model", {}).get("type", ""))
        own, content = results.filter(pl.col("run") == name), content_id(there.content())
        made = interventions.filter(pl.col("run") == name)
        for told in (one for one in PUBLISHED if one.family == family):
            rows.append({"run": name, "family": family, **_compared(told, own, made, rule, content)})
        if family == LLAVA:
            ranked = rankings.filter(pl.col("run") == name, pl.col("rule") == rule)
            rows.append({"run": name, "family": family, **_top_neurons(ranked)})
    untold = set() if run else set(FAMILIES) - {row["family"] for row in rows}
    rows += [
        {"run": "no run", "family": one.family, **_published(one), "ours": UNTOLD}
        for one in PUBLISHED
        if one.family in untold
    ]
    return pl.DataFrame(rows, schema=SCHEMA)


def _published(told: Published) -> dict[str, Any]:
    return {"quantity": told.quantity, "where": told.where, "published": told.value, "note": told.note}


def _compared(
    told: Published, own: pl.DataFrame, interventions: pl.DataFrame, rule: str, content: str
) -> dict[str, Any]:
    """own, interventions: the rows of one run in `results` and in `interventions`."""
    row = _published(told)
    wanted = {**told.ours, "rule": told.rule or rule}
    fitting = own.filter(*(pl.col(name).eq_missing(pl.lit(value)) for name, value in wanted.items()))
    none = f"no {told.ours['analysis']} under {wanted['rule']}"
    which = None
    if told.changed is not None:
        conditions = fitting_conditions(interventions, told.changed)
        if conditions.is_empty():
            return {**row, "ours": f"{none}: `vlmlake {told.made_by}`"}
        fitting, which = closest(fitting, conditions)
        none = f"{none}: `vlmlake analyze`"
    if fitting.is_empty():
        return {**row, "ours": none}
    found = fitting.row(0, named=True)
    about = {"n": found["n"], "n_images": found["n_images"], "own_note": joined(which, _own_note(found, content))}
    if told.as_falling_blocks:
        return {**row, **about, "ours": _falling(fitting)}
    numbers = {name: None if found[name] is None else told.scale * found[name] for name in BOUNDS}
    return {**row, **about, **numbers, "ours": in_words({**found, **numbers}, 3 if told.scale == 1 else 1)}


def _own_note(found: Mapping[str, Any], content: str) -> str | None:
    """What the analysis noted, and whether it was made otherwise, or of something else, than it would be today."""
    return joined(
        found["note"],
        f"with {found['settings']}" if found["settings"] else None,
        "of the run as it was before: `analyze` brings it up to date" if found["content"] != content else None,
        f"by other code, {found['code']}" if found["code"] != CODE else None,
    )


def in_words(found: Mapping[str, Any], digits: int = 3) -> str:
    """The value of a row of `results` with its interval, as in `0.819 [0.790, 0.851]`, a layer as a whole number;
    UNTOLD where there is no value.
    """
    form = ".0f" if found["statistic"] in LAYER_STATISTICS else f".{digits}f"
    value, low, high = (found[name] for name in ("value", "low", "high"))
    if value is None:
        return UNTOLD
    interval = "" if low is None or high is None else f" [{low:{form}}, {high:{form}}]"
    return f"{value:{form}}{interval}"


def _falling(rows: pl.DataFrame) -> str:
    """The blocks whose value is surely below 0, among those that have one."""
    blocks = rows.filter(pl.col("layer").str.starts_with(BLOCK)).drop_nulls("value")
    if blocks.is_empty():
        return UNTOLD
    falling = blocks.filter(pl.col("high") < 0)["layer"].str.strip_prefix(BLOCK)
    numbers = blocks["layer"].str.strip_prefix(BLOCK)
    return f"{', '.join(falling) or 'none'} (of {numbers[0]} to {numbers[-1]})"


def _top_neurons(rankings: pl.DataFrame) -> dict[str, Any]:
    """The five neurons that an L1 probe weighs most in the last block that was ranked."""
    l1 = rankings.filter(pl.col("ranking") == "l1", pl.col("site") == "resid")
    ours, where = UNTOLD, ""
    if not l1.is_empty():
        where = max(l1["layer"].unique(), key=block_number)
        ours = ", ".join(map(str, l1.filter(pl.col("layer") == where).sort("rank")["neuron"].head(5)))
    return {
        "quantity": "top 5 neurons of an L1 probe",
        "where": where,
        "published": ", ".join(map(str, TOP_NEURONS)),
        "ours": ours,
        "note": "neurons are those of this model; published for the residual stream after layer 31 of 32",
    }
