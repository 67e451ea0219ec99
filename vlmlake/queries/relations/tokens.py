"""`tokens`: what every token of prompt and answer is; `prefixes`: what lies before the question, once per image."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import polars as pl

from vlmlake.queries.predicates import KeyConditions
from vlmlake.queries.relations.base import EXAMPLE_KEYS, LABELS, Points, Relation, Types, Unit
from vlmlake.queries.relations.token_rows import token_keys, token_rows, token_values
from vlmlake.queries.run_view import RunView
from vlmlake.store_schema.schema import IMAGE
from vlmlake.store_schema.stored_array import StoredArray

TOKEN_BYTES = 32


class Tokens(Relation):
    """image_row and image_column: the patch that a token stands for, null for others."""

    name = "tokens"

    @property
    def keys(self) -> Types:
        return {**EXAMPLE_KEYS, **token_keys("token")}

    def values(self, views: Sequence[RunView]) -> Types:
        return {"id": pl.Int32(), "text": pl.String(), "image_row": pl.Int32(), "image_column": pl.Int32()}

    def rows_of(self, view: RunView) -> int:
        return view.record.extents.prefix_tokens + view.record.extents.tokens

    def row_bytes(self, view: RunView) -> int:
        return TOKEN_BYTES

    def rows(self, unit: Unit, wanted: Collection[str], conditions: KeyConditions) -> pl.DataFrame:
        return token_rows(unit, "token", {*wanted, *conditions.names}, conditions)

    def reads(self, unit: Unit, rows: pl.DataFrame) -> Iterator[tuple[StoredArray, Points]]:
        yield from ()

    def read(self, unit: Unit, rows: pl.DataFrame, wanted: Collection[str]) -> dict[str, pl.Series]:
        found = {}
        if {"id", "text"} & set(wanted):
            ids = token_values(unit, rows, "token", "prefix_token_id", "token_id")
            found["id"] = pl.Series("id", ids, dtype=pl.Int32)
            if "text" in wanted:
                vocabulary = unit.view.run.vocabulary
                found["text"] = pl.Series("text", [vocabulary[number] for number in ids], dtype=pl.String)
        for name in {"image_row", "image_column"} & set(wanted):
            cells = token_values(unit, rows, "token", name, None)
            found[name] = pl.Series(name, cells, dtype=pl.Int32).replace(-1, None)
        return {name: series for name, series in found.items() if name in wanted}


class Prefixes(Relation):
    """One row for each distinct prefix of a run, of the examples that continue it; image and digest are the first's.

    grid_rows, grid_columns: patches of the image; examples: how many continue the prefix.
    """

    name = "prefixes"

    @property
    def keys(self) -> Types:
        return {"run": pl.String(), "prefix": pl.Int64()}

    def values(self, views: Sequence[RunView]) -> Types:
        counts = {name: pl.Int32() for name in ("tokens", "image_tokens", "grid_rows", "grid_columns", "examples")}
        return {"image": pl.String(), "image_sha256": pl.String(), **counts}

    def rows_of(self, view: RunView) -> int:
        return 1

    def row_bytes(self, view: RunView) -> int:
        return TOKEN_BYTES

    def rows(self, unit: Unit, wanted: Collection[str], conditions: KeyConditions) -> pl.DataFrame:
        rows = unit.examples.group_by("prefix", maintain_order=True).agg(
            pl.col("image", "image_sha256").first(),
            pl.col("prefix_tokens").first().alias("tokens"),
            pl.len().alias("examples"),
        )
        return conditions.keep(rows.with_columns(pl.lit(unit.view.name).alias("run")), {*LABELS, "prefix"})

    def reads(self, unit: Unit, rows: pl.DataFrame) -> Iterator[tuple[StoredArray, Points]]:
        yield from ()

    def read(self, unit: Unit, rows: pl.DataFrame, wanted: Collection[str]) -> dict[str, pl.Series]:
        prefixes = rows["prefix"].to_numpy()
        found = {name: rows[name] for name in ("image", "image_sha256")}
        counts = {name: rows[name].to_numpy() for name in ("tokens", "examples")}
        if "image_tokens" in wanted:
            counts["image_tokens"] = (unit.view.tokens("prefix_token_role", prefixes) == IMAGE).sum(axis=1)
        if {"grid_rows", "grid_columns"} & set(wanted):
            counts["grid_rows"], counts["grid_columns"] = unit.view.grids(prefixes).T
        found |= {name: pl.Series(name, values, dtype=pl.Int32) for name, values in counts.items()}
        return {name: series for name, series in found.items() if name in wanted}
