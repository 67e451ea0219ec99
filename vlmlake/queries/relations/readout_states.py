"""`readout_states`: the residual stream at prompt_last and the answer's tokens, a row per example, layer, position."""

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
from vlmlake.queries.relations.readout_rows import POSITION_KEY, readout_rows
from vlmlake.queries.run_view import RunView
from vlmlake.store_schema.points import read_points
from vlmlake.store_schema.stored_array import StoredArray


class ReadoutStates(Relation):
    """As the array of that name."""

    name = "readout_states"
    arrays: ClassVar[tuple[str, ...]] = ("readout_states",)
    by_layer = True

    @property
    def keys(self) -> Types:
        return {**EXAMPLE_KEYS, **LAYER_KEY, **POSITION_KEY}

    def values(self, views: Sequence[RunView]) -> Types:
        return {"vector": vector_type([view.record.extents.hidden for view in views])}

    def rows_of(self, view: RunView) -> int:
        return view.record.extents.positions

    def row_bytes(self, view: RunView) -> int:
        return 4 * view.record.extents.hidden

    def rows(self, unit: Unit, wanted: Collection[str], conditions: KeyConditions) -> pl.DataFrame:
        return readout_rows(unit, {*wanted, *conditions.names}, conditions)

    def reads(self, unit: Unit, rows: pl.DataFrame) -> Iterator[tuple[StoredArray, Points]]:
        layer = unit.view.record.layers.index(str(unit.layer))
        points = (of_examples(unit, rows, "row"), np.full(len(rows), layer), rows["place"].to_numpy())
        yield unit.view.array("readout_states"), points

    def read(self, unit: Unit, rows: pl.DataFrame, wanted: Collection[str]) -> dict[str, pl.Series]:
        ((array, points),) = self.reads(unit, rows)
        return {"vector": vectors("vector", read_points(array, points))}
