"""What a relation over arrays owes: its columns, its rows before any value is read, and the values of chosen rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl

from vlmlake.queries.predicates import KeyConditions
from vlmlake.queries.run_view import RunView
from vlmlake.store_schema.schema import EMBED
from vlmlake.store_schema.stored_array import StoredArray

Types = Mapping[str, pl.DataType]
Points = tuple[np.ndarray, ...]

LABELS = ("run", "example", "layer")
"""Keys that say which unit a row is of."""

EXAMPLE_KEYS: Types = {"run": pl.String(), "example": pl.String()}
LAYER_KEY: Types = {"layer": pl.String()}


@dataclass(frozen=True)
class Unit:
    """Some neighbouring examples of a run, of whole batches, at one layer if the relation has layers: what is decided
    at a time.
    """

    view: RunView
    examples: pl.DataFrame
    layer: str | None = None


class Relation(ABC):
    """name: in SQL. arrays: one of them at least must be kept, or the run has no rows here; none for a relation of
    every run. by_layer: whether it has a column `layer`; blocks_only: without rows of `embed`. of_tokens: values that
    follow from what each token is, so that none of `arrays` is read for them.
    """

    name: ClassVar[str]
    arrays: ClassVar[tuple[str, ...]] = ()
    by_layer: ClassVar[bool] = False
    blocks_only: ClassVar[bool] = False
    of_tokens: ClassVar[frozenset[str]] = frozenset()

    @property
    @abstractmethod
    def keys(self) -> Types:
        """Columns that are known before any value is read."""

    @abstractmethod
    def values(self, views: Sequence[RunView]) -> Types:
        """Columns that have to be read, for rows of these runs."""

    def schema(self, views: Sequence[RunView]) -> pl.Schema:
        """All columns."""
        return pl.Schema({**self.keys, **self.values(views)})

    def kept_by(self, view: RunView) -> bool:
        return not self.arrays or any(view.keeps(array) for array in self.arrays)

    def layers(self, view: RunView) -> tuple[str | None, ...]:
        """Labels of the layers of which there are rows; one of none where the relation has no layers."""
        if not self.by_layer:
            return (None,)
        return tuple(layer for layer in view.record.layers if not (self.blocks_only and layer == EMBED))

    @abstractmethod
    def rows_of(self, view: RunView) -> int:
        """About how many rows an example has at one layer, before any condition."""

    @abstractmethod
    def row_bytes(self, view: RunView) -> int:
        """About how many bytes the values of a row take while they are read."""

    @abstractmethod
    def rows(self, unit: Unit, wanted: Collection[str], conditions: KeyConditions) -> pl.DataFrame:
        """The rows of a unit that may be asked for: the wanted keys and those that conditions name, and what `reads`
        and `read` need to know.
        """

    @abstractmethod
    def reads(self, unit: Unit, rows: pl.DataFrame) -> Iterator[tuple[StoredArray, Points]]:
        """The places in arrays that the values of some of a unit's rows are read from, but for those in `of_tokens`."""

    @abstractmethod
    def read(self, unit: Unit, rows: pl.DataFrame, wanted: Collection[str]) -> dict[str, pl.Series]:
        """The wanted values of some of a unit's rows."""


def of_examples(unit: Unit, rows: pl.DataFrame, column: str) -> np.ndarray:
    """A column of the examples of rows that name them by `number`."""
    values: np.ndarray = unit.view.examples[column].to_numpy()[rows["number"].to_numpy()]
    return values


def with_labels(unit: Unit, rows: pl.DataFrame, needed: Collection[str]) -> pl.DataFrame:
    """Rows that name examples by `number`, with those columns of `run`, `example` and `layer` that are needed."""
    columns: list[pl.Series | pl.Expr] = []
    if "run" in needed:
        columns.append(pl.lit(unit.view.name).alias("run"))
    if "example" in needed:
        columns.append(unit.view.examples["example"].gather(rows["number"]).alias("example"))
    if "layer" in needed and unit.layer is not None:
        columns.append(pl.lit(unit.layer).alias("layer"))
    return rows.with_columns(columns)


def vectors(name: str, values: np.ndarray) -> pl.Series:
    """[n, D] as a column of arrays."""
    return pl.Series(name, values, dtype=pl.Array(pl.Float32, values.shape[1]))


def vector_type(lengths: Collection[int | None]) -> pl.DataType:
    """An array where all have one known length, else a list."""
    one = set(lengths)
    length = one.pop() if len(one) == 1 else None
    return pl.List(pl.Float32()) if length is None else pl.Array(pl.Float32(), length)
