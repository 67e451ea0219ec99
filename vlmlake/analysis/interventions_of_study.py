"""Which of a run's interventions answers a question of the study, where several could."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from vlmlake.analysis.layer_order import block_number, is_layer

USUAL = {"ranking": "l1", "site": "resid", "mode": "mean", "positions": "all"}
"""Settings of the study, and the defaults of those who make interventions."""
SHOWN = ("set", "ranking", "site", "layer", "mode", "positions")
ROUNDING = 1e-9


def fitting_conditions(interventions: pl.DataFrame, changed: Mapping[str, str | int | float]) -> pl.DataFrame:
    """Rows of tables.INTERVENTIONS that have these values."""
    wanted = [
        (pl.col(name) - value).abs() < ROUNDING if isinstance(value, float) else pl.col(name) == value
        for name, value in changed.items()
    ]
    return interventions.filter(*wanted)


def closest(results: pl.DataFrame, conditions: pl.DataFrame) -> tuple[pl.DataFrame, str | None]:
    """Of rows of tables.RESULTS the one about these conditions, and in words about which; none where none is.

    conditions: rows of tables.INTERVENTIONS. Of several the one with most of the USUAL settings, of these that of the
    last block, of these the last.
    """
    at = pl.when(pl.col("kind") == "mask").then("share").otherwise(pl.col("k").cast(pl.Float64))
    usual = pl.sum_horizontal((pl.col(name) == value).fill_null(False).cast(pl.Int32) for name, value in USUAL.items())
    made = conditions.select(
        "intervention",
        "layer",
        *(name for name in SHOWN if name != "layer"),
        metric="set",
        position="positions",
        at=at,
        usual=usual,
        block=pl.col("layer").map_elements(_block, return_dtype=pl.Int64, skip_nulls=False),
    )
    keys = ["intervention", "metric", "layer", "position", "at"]
    both = results.join(made, on=keys, how="inner", nulls_equal=True, maintain_order="left")
    if both.is_empty():
        return results.clear(), None
    best = both.sort("usual", "block", maintain_order=True).tail(1)
    one = best.row(0, named=True)
    told = " ".join(str(one[name]) for name in SHOWN if one[name] is not None)
    others = both.height - 1
    return best.select(results.columns), f"{told}{f', one of {others + 1} that fit' if others else ''}"


def _block(layer: str | None) -> int:
    return block_number(layer) if layer is not None and is_layer(layer) else -2
