"""What interventions changed, on a terminal: a table per run, a line per condition."""

from __future__ import annotations

import polars as pl
from rich.console import Console

from vlmlake.analysis.causal.described import OWN_WORDS, described
from vlmlake.analysis.population import ALL_SPLITS
from vlmlake.console.printable import printable
from vlmlake.console.tables import print_table

POINTS = 100
"""Drops are printed in percentage points."""
HEADS_SHOWN = 10
"""Of one run: those that cost most."""
STATISTICS = ("drop", "contrast", "follows_donor")
KEYS = ["run", "rule", "condition", "intervention", "position", "layer", "at"]


def print_causal(console: Console, results: pl.DataFrame, interventions: pl.DataFrame) -> None:
    """Of every run the drop of each condition over all splits, beside its controls; notes of what has no value below.

    results: rows of tables.RESULTS, those of other analyses are not looked at. interventions: rows of
    tables.INTERVENTIONS.
    """
    pooled = results.filter(pl.col("analysis") == "causal", pl.col("split") == ALL_SPLITS, pl.col("gold").is_null())
    for (run, rule, condition), rows in pooled.group_by("run", "rule", "condition", maintain_order=True):
        where = f" where {condition}" if condition else ""
        asked = f"rule {rule}{where}"
        console.print("\n" + printable(f"{run}: causal, {asked}; drops in percentage points, 95 % intervals"))
        told = described(rows.filter(pl.col("statistic").is_in(STATISTICS)), interventions)
        lines = _lines(told.drop_nulls("value"), rows)
        heads = lines.filter(pl.col("what") == "head")
        costly = heads.sort("_value", descending=True, maintain_order=True).head(HEADS_SHOWN)
        shown = pl.concat([lines.filter(pl.col("what") != "head"), costly]).drop("_value")
        used = [name for name in shown.columns if shown[name].null_count() < shown.height]
        print_table(console, shown.select(used).to_arrow())
        if heads.height > costly.height:
            console.print(f"{heads.height - costly.height} more heads, which cost less, in the table `results`")
        untold = told.filter(pl.col("value").is_null())
        for (note,), those in untold.group_by("note", maintain_order=True):
            names = ", ".join(dict.fromkeys(those["metric"]))
            console.print(printable(f"{those.height} without a value ({names}): {note}"))


def _lines(told: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """told: of `described`. rows: of the same run, of all statistics."""
    beside = [*KEYS, "site", "mode"]
    controls = told.filter(metric="control").select(*beside, controls=_interval())
    controls = controls.unique(beside, keep="first", maintain_order=True)
    keys = [*KEYS, "metric", "_words"]
    words = pl.col("note").fill_null("").str.extract(OWN_WORDS).alias("_words")
    ranks = rows.filter(statistic="rank_among_controls").drop_nulls("value").with_columns(words)
    of = pl.col("note").str.extract(r"of (\d+) controls")
    ranks = ranks.select(*keys, rank=pl.format("{} of {}", pl.col("value").cast(pl.Int64), of.cast(pl.Int64) + 1))
    ranks = ranks.unique(keys, keep="first", maintain_order=True)
    lines = (
        told.filter(pl.col("metric") != "control")
        .with_columns(words)
        .join(controls, on=beside, how="left", nulls_equal=True, maintain_order="left")
        .join(ranks, on=keys, how="left", nulls_equal=True, maintain_order="left")
    )
    ablated = pl.col("kind") == "ablate"
    compared = ablated & (pl.col("metric") != "null")
    return lines.select(
        what=pl.when(pl.col("statistic") == "follows_donor")
        .then(pl.format("{}: follows its donor", "metric"))
        .otherwise(pl.col("metric").str.replace("_minus_", " minus ")),
        ranking="ranking",
        site="site",
        layer="layer",
        head="head",
        mode="mode",
        positions="position",
        k=pl.when(ablated).then(pl.col("at").cast(pl.Int64)),
        share=pl.col("share").map_elements(lambda share: f"{share:g}", return_dtype=pl.String),
        points=_interval(),
        p=pl.when(pl.col("p_value").is_not_null()).then(pl.col("p_value").map_elements(_p, return_dtype=pl.String)),
        controls=pl.when(compared).then("controls"),
        rank=pl.when(compared).then("rank"),
        n="n",
        images="n_images",
        _value="value",
    )


def _interval() -> pl.Expr:
    """Value and bounds of a row in points, as in `11.3 [8.7, 13.9]`."""
    bounds = (
        (POINTS * pl.col(name)).map_elements(lambda value: f"{value:.1f}", return_dtype=pl.String)
        for name in ("value", "low", "high")
    )
    return pl.format("{} [{}, {}]", *bounds)


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"
