"""SQL over a lake: a DuckDB connection in which every table of every run is a view."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import duckdb
import pyarrow as pa

from vlmlake.errors import VlmlakeError
from vlmlake.store_schema.lake import Lake, open_lake

VIEWS = ("examples", "answers", "batches", "skipped", "results")
SAMPLES = """
CREATE TEMP VIEW samples AS
SELECT run, example, unnest(sample) FROM (SELECT run, example, unnest(samples) AS sample FROM batches)
"""

OPEN = ("python_enable_replacements = false",)
NO_FILES = (
    "autoinstall_known_extensions = false",
    "autoload_known_extensions = false",
    "allow_persistent_secrets = false",
    "temp_directory = ''",
    "enable_external_access = false",
)
LOCKED = ("lock_configuration = true",)
"""Settings of every connection, of one that reaches no file, and what makes them final."""


def connect(
    url: str, storage_options: Mapping[str, Any] | None = None, allow_files: bool = False
) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection with a view `runs` and one per table (lake.TABLES) over all runs of a lake.

    The tables are Arrow datasets read on demand, projections and filters pushed down. The connection itself can reach
    no file, no network and no Python variable: a query sees the lake and nothing else. allow_files: files and the
    network too, as DuckDB reads and writes them.

    Raises VlmlakeError if there is no lake at `url`.
    """
    lake = open_lake(url, storage_options)
    connection = duckdb.connect()
    for view in VIEWS:
        connection.register(view, lake.arrow(view))
    connection.execute(SAMPLES)
    connection.register("runs", runs_table(lake))
    for setting in (*OPEN, *(() if allow_files else NO_FILES), *LOCKED):
        connection.execute(f"SET {setting}")
    return connection


def runs_table(lake: Lake) -> pa.Table:
    """One row per run: run, model, examples planned, batches planned and committed, stored dtype."""
    rows = []
    for run in (lake.run(name) for name in lake.runs):
        rows.append(
            {
                "run": run.name,
                "model": run.record.model,
                "examples": run.record.examples,
                "batches": run.record.extents.batches,
                "batches_done": run.batches_done,
                "dtype": run.record.stored_dtype,
            }
        )
    types = [("examples", pa.int64()), ("batches", pa.int64()), ("batches_done", pa.int64()), ("dtype", pa.string())]
    return pa.Table.from_pylist(rows, schema=pa.schema([("run", pa.string()), ("model", pa.string()), *types]))


def sql(url: str, query: str, storage_options: Mapping[str, Any] | None = None, allow_files: bool = False) -> pa.Table:
    """The answer to one SQL statement over the lake at `url`; an empty table for one that answers nothing.

    allow_files: as of `connect`.

    Raises VlmlakeError with DuckDB's message if the statement is wrong, or if there is none or more than one.
    """
    with connect(url, storage_options, allow_files) as connection:
        try:
            statements = connection.extract_statements(query)
            if len(statements) != 1:
                raise VlmlakeError(f"SQL: expected one statement, got {len(statements)}")
            relation = connection.sql(query)
            return pa.table({}) if relation is None else relation.to_arrow_table()
        except duckdb.Error as error:
            first = " ".join(line.strip() for line in str(error).split("\n\n")[0].splitlines())
            raise VlmlakeError(f"SQL: {first}") from error
