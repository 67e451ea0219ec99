"""Arrays as Polars LazyFrames: conditions on keys become the chunks to read, columns that nobody asks for stay unread.

The one place where vlmlake meets Polars' `register_io_source`; DuckDB reads the same LazyFrames.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from math import prod

import polars as pl
from polars.io.plugins import register_io_source

from vlmlake.errors import NotKeptError, UnknownNameError, VlmlakeError
from vlmlake.queries.meter import LIMIT, Meter, ScanFacts
from vlmlake.queries.predicates import KeyConditions
from vlmlake.queries.relations import RELATIONS
from vlmlake.queries.relations.base import Relation, Unit
from vlmlake.queries.run_view import RunView
from vlmlake.store_schema.arrays import shard_format
from vlmlake.store_schema.points import Cost, cost_of
from vlmlake.store_schema.run import Run

ROWS_A_UNIT = 200_000
"""About how many rows are decided at a time."""
PIECE_BYTES = 32 * 2**20
"""About how much of the values is read at a time."""


def scan(run: Run | Sequence[Run], array: str, limit: int | None = LIMIT) -> pl.LazyFrame:
    """A relation over the arrays of one run or several, as a LazyFrame: a collect reads what the query needs.

    array: name of a relation: hidden_states, readout_states, attention, attention_image, logits_top, tokens, prefixes.
    Comparisons of its keys (run, example, layer, head, query, token, role, position, rank) decide which chunks are
    read. limit: bytes that a scan may fetch of arrays; none for no limit. What is visible now is what every collect
    sees.

    Raises UnknownNameError if there is no such relation, NotKeptError if none of the runs keeps its arrays. A collect
    raises TooMuchError if it is beyond the limit.
    """
    views = [RunView.of(one) for one in ([run] if isinstance(run, Run) else run)]
    for relation in RELATIONS:
        if relation.name == array:
            require_kept(relation, views)
            return lazy_relation(relation, views, Meter(limit))
    raise UnknownNameError(f"no relation named {array}: there are {', '.join(relation.name for relation in RELATIONS)}")


def lazy_relation(relation: Relation, views: Sequence[RunView], meter: Meter) -> pl.LazyFrame:
    """The rows of those runs that keep the relation's arrays. meter: what allows and notes every scan.

    A collect raises NotKeptError where no run keeps them.
    """
    keeping = [view for view in views if relation.kept_by(view)]
    schema = relation.schema(keeping)

    def source(
        with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        yield schema.to_frame().select(with_columns or schema.names())
        if n_rows == 0:
            return
        try:
            require_kept(relation, views)
            asked = _Scan(relation, keeping, schema, tuple(with_columns or schema), predicate, n_rows)
            meter.admit(asked.facts(meter.most))
            if meter.reads:
                yield from asked.frames()
        except VlmlakeError as error:
            meter.refusal = copy(error)  # without its traceback, which would hold the connection for ever
            raise

    return register_io_source(source, schema=schema, validate_schema=True, is_pure=True)


def require_kept(relation: Relation, views: Sequence[RunView]) -> None:
    """Raises NotKeptError if there are runs and none keeps the relation's arrays."""
    if views and not any(map(relation.kept_by, views)):
        raise NotKeptError(
            f"{relation.name} needs {' or '.join(relation.arrays)}, which {', '.join(view.name for view in views)} "
            "did not keep: extract with a plan that does"
        )


@dataclass(frozen=True)
class _Scan:
    """What one query wants of a relation. columns: in the order in which it wants them. n_rows: the first so many rows
    before the predicate, as Polars means it.
    """

    relation: Relation
    views: Sequence[RunView]
    schema: pl.Schema
    columns: Sequence[str]
    predicate: pl.Expr | None
    n_rows: int | None

    @cached_property
    def needed(self) -> set[str]:
        return {*self.columns, *(self.predicate.meta.root_names() if self.predicate is not None else ())}

    @cached_property
    def values(self) -> set[str]:
        return self.needed - set(self.relation.keys)

    @cached_property
    def conditions(self) -> KeyConditions:
        """Those that decide which rows are looked at; none where rows are counted before the predicate."""
        return KeyConditions.of(self.predicate if self.n_rows is None else None, self.relation.keys)

    def facts(self, most: int | None) -> ScanFacts:
        """What the scan selects. most: bytes beyond which the rest is guessed from what was looked at."""
        there = sum(self._chunks_there(view) for view in self.views)
        if not self.values:
            return ScanFacts(self.relation.name, 0, 0, there, 0, 0)
        units = list(self._units())
        rows, cost, of_arrays, last = 0, Cost(), bool(self.values - self.relation.of_tokens), 1
        for number, unit, piece in self._pieces(units, ()):
            if number > last and most is not None and cost.bytes > most:
                whole = sum(map(self._weight, units)) / sum(map(self._weight, units[:last]))
                rows, cost = int(rows * whole), cost.times(whole)
                break
            last = number
            rows += len(piece)
            if of_arrays:
                cost = sum((cost_of(*read) for read in self.relation.reads(unit, piece)), cost)
        return ScanFacts(self.relation.name, rows, cost.chunks, there, cost.bytes, cost.requests)

    def frames(self) -> Iterator[pl.DataFrame]:
        """The rows."""
        for _, unit, piece in self._pieces(self._units(), self.needed & set(self.relation.keys)):
            found = self._finished(unit, piece)
            if len(found):
                yield found

    def _pieces(self, units: Iterable[Unit], keys: Collection[str]) -> Iterator[tuple[int, Unit, pl.DataFrame]]:
        """What is read at a time: its unit's number from 1, the unit, and some of its rows with the wanted keys."""
        left = self.n_rows
        for done, unit in enumerate(units, start=1):
            rows = self.relation.rows(unit, keys, self.conditions)
            if left is not None:
                rows, left = rows.head(left), left - min(left, len(rows))
            for piece in rows.iter_slices(self._piece(unit.view)):
                if len(piece):
                    yield done, unit, piece
            if left == 0:
                return

    def _finished(self, unit: Unit, rows: pl.DataFrame) -> pl.DataFrame:
        values = self.relation.read(unit, rows, self.values) if self.values else {}
        keys = [rows[name] for name in self.relation.keys if name in self.needed]
        own = [values[name].cast(self.schema[name]) for name in self.schema if name in values]
        frame = pl.DataFrame([*keys, *own])
        return (frame if self.predicate is None else frame.filter(self.predicate)).select(self.columns)

    def _weight(self, unit: Unit) -> int:
        """About how much the values of all its rows take, beside those of other units."""
        return len(unit.examples) * self.relation.rows_of(unit.view) * self.relation.row_bytes(unit.view)

    def _piece(self, view: RunView) -> int:
        """How many rows are read at a time."""
        return max(1, PIECE_BYTES // self.relation.row_bytes(view)) if self.values else ROWS_A_UNIT

    def _units(self) -> Iterator[Unit]:
        """Examples and layers of which rows may be asked for."""
        for view in self.views:
            examples = self.conditions.keep(view.examples, {"run", "example"})
            labels = pl.DataFrame({"layer": self.relation.layers(view)}, schema={"layer": pl.String})
            labels = self.conditions.keep(labels.with_columns(pl.lit(view.name).alias("run")), {"layer"})
            for group in self._groups(view, examples):
                yield from (Unit(view, group, layer) for layer in labels["layer"])

    def _groups(self, view: RunView, examples: pl.DataFrame) -> Iterator[pl.DataFrame]:
        """The examples of as many whole batches as have about ROWS_A_UNIT rows."""
        size = max(1, ROWS_A_UNIT // max(1, self.relation.rows_of(view)))
        group: list[pl.DataFrame] = []
        for batch in examples.partition_by("batch", maintain_order=True):
            if group and sum(map(len, group)) + len(batch) > size:
                yield pl.concat(group)
                group = []
            group.append(batch)
        if group:
            yield pl.concat(group)

    def _chunks_there(self, view: RunView) -> int:
        """Chunks that the visible batches have room for, in all arrays of the relation."""
        count = 0
        for spec in view.record.batch_specs:
            if spec.name in self.relation.arrays:
                count += prod(shard_format(view.record, spec).grid) * len(view.commits)
        return count
