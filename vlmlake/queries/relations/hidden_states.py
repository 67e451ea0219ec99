"""`hidden_states`: the residual stream at every token of prompt and answer, a row per example, layer and token."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import ClassVar

import numpy as np
import polars as pl

from vlmlake.queries.predicates import KeyConditions
from vlmlake.queries.relations.base import (
    EXAMPLE_KEYS,
    LAYER_KEY,
    Points,
    Relation,
    Types,
    Unit,
    of_examples,
    vector_type,
    vectors,
)
from vlmlake.queries.relations.token_rows import token_keys, token_rows
from vlmlake.queries.run_view import RunView
from vlmlake.store_schema.points import read_points
from vlmlake.store_schema.stored_array import StoredArray

PREFIX, SUFFIX = "prefix_states", "hidden_states"


class HiddenStates(Relation):
    """The prefix's tokens come from `prefix_states`, the others from `hidden_states`, where the run keeps them."""

    name = "hidden_states"
    arrays: ClassVar[tuple[str, ...]] = (PREFIX, SUFFIX)
    by_layer = True

    @property
    def keys(self) -> Types:
        return {**EXAMPLE_KEYS, **LAYER_KEY, **token_keys("token")}

    def values(self, views: Sequence[RunView]) -> Types:
        return {"vector": vector_type([view.record.extents.hidden for view in views])}

    def rows_of(self, view: RunView) -> int:
        extents = view.record.extents
        return extents.prefix_tokens * view.keeps(PREFIX) + extents.tokens * view.keeps(SUFFIX)

    def row_bytes(self, view: RunView) -> int:
        return 4 * view.record.extents.hidden

    def rows(self, unit: Unit, wanted: Collection[str], conditions: KeyConditions) -> pl.DataFrame:
        needed = {*wanted, *conditions.names}
        return token_rows(unit, "token", needed, conditions, unit.view.keeps(PREFIX), unit.view.keeps(SUFFIX))

    def reads(self, unit: Unit, rows: pl.DataFrame) -> Iterator[tuple[StoredArray, Points]]:
        for array, _, points in self._parts(unit, rows):
            yield array, points

    def read(self, unit: Unit, rows: pl.DataFrame, wanted: Collection[str]) -> dict[str, pl.Series]:
        found = np.empty((len(rows), unit.view.record.extents.hidden), np.float32)
        for array, here, points in self._parts(unit, rows):
            found[here] = read_points(array, points)
        return {"vector": vectors("vector", found)}

    def _parts(self, unit: Unit, rows: pl.DataFrame) -> Iterator[tuple[StoredArray, np.ndarray, Points]]:
        """Of each array that holds some of the rows: which, and their places in it."""
        token, prefix_tokens = rows["token"].to_numpy(), of_examples(unit, rows, "prefix_tokens")
        layer = unit.view.record.layers.index(str(unit.layer))
        inside = token < prefix_tokens
        for name, axis, here, place in (
            (PREFIX, "prefix", inside, token),
            (SUFFIX, "row", ~inside, token - prefix_tokens),
        ):
            if here.any():
                entries = of_examples(unit, rows, axis)[here]
                yield unit.view.array(name), here, (entries, np.full(len(entries), layer), place[here])
