"""Results of `causal` beside what was changed, and which of them answers a question where several could."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from vlmlake.analysis.causal.conditions import MASK, RANDOM, TELLING
from vlmlake.analysis.layer_order import block_number, is_layer

USUAL = {"ranking": "l1", "site": "resid", "mode": "mean", "positions": "all"}
"""Settings of the study, and the defaults of those who make interventions."""
SHOWN = ("set", "ranking", "site", "layer", "mode", "positions")
ROUNDING = 1e-9
CHANGED = ("kind", "set", "ranking", "rule", "site", "mode", "positions", "k", "share")
BY_RULE = "ranked_by"
"""The rule of the ranking: `rule` is that of the result."""
AGAINST_RANDOM = f"_minus_{RANDOM}"


OWN_WORDS = rf"(?:^|; )((?:{'|'.join(TELLING)}) [^;]*)"
"""The part of a note that tells a row from others that look alike."""


def described(results: pl.DataFrame, interventions: pl.DataFrame) -> pl.DataFrame:
    """Rows of tables.RESULTS with the columns CHANGED of the condition that they are about, null where none is; the
    ranking's `rule` is BY_RULE. interventions: rows of tables.INTERVENTIONS, of all runs or of some.

    Rows that would fit several conditions say in their notes which is theirs, as in `ranking auroc`.
    """
    at = pl.when(pl.col("kind") == MASK).then("share").otherwise(pl.col("k").cast(pl.Float64))
    keys = ["run", "intervention", "layer", "head"]
    made = interventions.select(
        *keys, *(pl.col(name).alias(BY_RULE if name == "rule" else name) for name in CHANGED), _at=at
    ).unique(maintain_order=True)
    numbered = results.with_row_index("_row").with_columns(_set=pl.col("metric").str.strip_suffix(AGAINST_RANDOM))
    both = numbered.join(
        made,
        left_on=[*keys, "_set", "position", "at"],
        right_on=[*keys, "set", "positions", "_at"],
        how="left",
        nulls_equal=True,
        maintain_order="left",
        coalesce=False,
    )
    words = pl.col("note").fill_null("").str.extract(OWN_WORDS).fill_null("")
    told = {column: words.str.extract(rf"(?:^| ){name} (\S+)") for name, column in _COLUMNS.items()}
    agrees = [word.is_null() | (word == pl.col(column)) for column, word in told.items()]
    # A row that agrees with nothing keeps what it has: its note is not one of ours.
    fitting = both.filter(pl.all_horizontal(agrees).fill_null(True) | (pl.len().over("_row") == 1))
    return fitting.unique("_row", keep="first", maintain_order=True).select(
        *results.columns, *(BY_RULE if name == "rule" else name for name in CHANGED)
    )


_COLUMNS = {name: BY_RULE if name == "rule" else name for name in TELLING}


def fitting_conditions(interventions: pl.DataFrame, changed: Mapping[str, str | int | float]) -> pl.DataFrame:
    """Rows of tables.INTERVENTIONS that have these values."""
    wanted = [
        (pl.col(name) - value).abs() < ROUNDING if isinstance(value, float) else pl.col(name) == value
        for name, value in changed.items()
    ]
    return interventions.filter(*wanted)


def closest(results: pl.DataFrame, conditions: pl.DataFrame) -> tuple[pl.DataFrame, str | None]:
    """Of rows of tables.RESULTS the one about these conditions, and in words about which; none where none is.

    conditions: rows of tables.INTERVENTIONS. Of several those that have a value, of these the one with most of the
    USUAL settings, of these that of the last block, of these that of most examples.
    """
    usual = pl.sum_horizontal((pl.col(name) == value).fill_null(False).cast(pl.Int32) for name, value in USUAL.items())
    block = pl.col("layer").map_elements(_block, return_dtype=pl.Int64, skip_nulls=False)
    found = described(results, conditions).filter(pl.col("kind").is_not_null())
    if found.is_empty():
        return results.clear(), None
    best = found.sort(pl.col("value").is_not_null(), usual, block, "n", maintain_order=True).tail(1)
    told = " ".join(str(value) for name, value in best.select(SHOWN).row(0, named=True).items() if value is not None)
    more = f", one of {found.height} that fit" if found.height > 1 else ""
    return best.select(results.columns), f"{told}{more}"


def _block(layer: str | None) -> int:
    return block_number(layer) if layer is not None and is_layer(layer) else -2
