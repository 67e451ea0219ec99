"""SQL over a lake: a DuckDB connection in which every table is a view and every kind of array a relation."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import duckdb
import pyarrow as pa

from vlmlake.queries.catalog import Catalog
from vlmlake.queries.meter import LIMIT, Meter
from vlmlake.queries.session import Session
from vlmlake.queries.statements import findings_named_in
from vlmlake.store_schema import tables


def connect(
    url: str,
    storage_options: Mapping[str, Any] | None = None,
    *,
    runs: Sequence[str] | None = None,
    allow_files: bool = False,
    limit: int | None = LIMIT,
    findings: Collection[str] = tuple(tables.FINDINGS),
) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection over a lake, as it is at this moment.

    Views: `runs`, `examples`, `answers`, `batches`, `samples`, `skipped`, the findings (tables.FINDINGS),
    `metrics_wide` (a column per metric), `margins`. Relations over arrays: `hidden_states`, `readout_states` (payload
    `vector`, FLOAT[D] where all runs are of one width, else FLOAT[]), `attention`, `attention_image` (payload
    `weights`), `logits_top`, `tokens`, `prefixes`. Macro: `layer_number`.

    The tables are read into memory now, each file once. Arrays are read by the statements that need them: comparisons
    of their keys with constants decide which chunks; `narrowed` does so for subqueries and joins. The connection sees
    nothing else: it can reach no file, no network and no Python variable.

    runs: names of runs, or of models with one run; all unless given. allow_files: files and the network too, as DuckDB
    reads and writes them. limit: bytes that a scan may fetch of arrays; none for no limit. findings: of the tables that
    analyses write those that are read, the others stay empty: `metrics` can be large.

    DuckDB connections serve one thread at a time, and cursors have no views of their own: threads take a connection
    each, `Catalog.at(url).connect(Meter())` makes many of one reading.

    Raises VlmlakeError if there is no lake at `url`, UnknownNameError if it has no such run. A statement that would
    fetch more than the limit ends in DuckDB's InvalidInputException before it fetches anything.
    """
    return Catalog.at(url, storage_options, runs, findings).connect(Meter(limit), allow_files)


def sql(
    url: str,
    query: str,
    storage_options: Mapping[str, Any] | None = None,
    *,
    parameters: Mapping[str, Any] | None = None,
    runs: Sequence[str] | None = None,
    allow_files: bool = False,
    limit: int | None = LIMIT,
) -> pa.Table:
    """The answer to one SQL statement over the lake at `url`; an empty table for one that answers nothing.

    parameters: of `$name` in it. runs, allow_files: as of `connect`; limit: on all that the statement fetches of
    arrays.

    Raises VlmlakeError with DuckDB's message if the statement is wrong, or if there is none or more than one;
    TooMuchError if it would fetch more than the limit.
    """
    with Session.at(
        url, storage_options, runs=runs, allow_files=allow_files, limit=limit, findings=findings_named_in(query)
    ) as session:
        return session.ask(query, parameters).table
