"""SQL over a lake: a DuckDB connection in which every table of every run is a view."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from vlmlake.errors import VlmlakeError
from vlmlake.store_schema import tables
from vlmlake.store_schema.lake import open_lake
from vlmlake.store_schema.run import Run

BATCH_VIEWS = {"examples": tables.EXAMPLES, "answers": tables.ANSWERS, "batches": tables.BATCH}
"""Views of the batches' rows, and their columns."""

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
    url: str,
    storage_options: Mapping[str, Any] | None = None,
    allow_files: bool = False,
    findings: Collection[str] = tuple(tables.FINDINGS),
) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection with a view `runs` and one per table (lake.TABLES) over all runs of a lake.

    The tables are read into memory now, each file once: a query sees the lake as it is at this moment. It sees nothing
    else: the connection can reach no file, no network and no Python variable. allow_files: files and the network too,
    as DuckDB reads and writes them. findings: of the tables that analyses write those that are read, the
    others stay empty: `metrics` can be large.

    Raises VlmlakeError if there is no lake at `url`.
    """
    lake = open_lake(url, storage_options)
    connection = duckdb.connect()
    runs = [lake.run(name) for name in lake.runs]
    rows = [run.rows() for run in runs]
    batches = pa.concat_tables([tables.BATCH.empty_table(), *rows])
    for view, schema in BATCH_VIEWS.items():
        connection.register(view, batches.select(schema.names))
    connection.execute(SAMPLES)
    skipped = [run.skipped_rows() for run in runs]
    connection.register("skipped", pa.concat_tables([tables.SKIPPED.empty_table(), *skipped]))
    for table, schema in tables.FINDINGS.items():
        connection.register(table, lake.arrow(table) if table in findings else schema.empty_table())
    connection.register("runs", _runs_table(runs, rows))
    for setting in (*OPEN, *(() if allow_files else NO_FILES), *LOCKED):
        connection.execute(f"SET {setting}")
    return connection


def _runs_table(runs: Sequence[Run], rows: Sequence[pa.Table]) -> pa.Table:
    """One row per run: run, model, examples planned, batches planned and committed, stored dtype. rows: of each run."""
    facts = [
        {
            "run": run.name,
            "model": run.record.model,
            "examples": run.record.examples,
            "batches": run.record.extents.batches,
            "batches_done": pc.count_distinct(there["batch"]).as_py(),
            "dtype": run.record.stored_dtype,
        }
        for run, there in zip(runs, rows, strict=True)
    ]
    types = [("examples", pa.int64()), ("batches", pa.int64()), ("batches_done", pa.int64()), ("dtype", pa.string())]
    return pa.Table.from_pylist(facts, schema=pa.schema([("run", pa.string()), ("model", pa.string()), *types]))


def sql(url: str, query: str, storage_options: Mapping[str, Any] | None = None, allow_files: bool = False) -> pa.Table:
    """The answer to one SQL statement over the lake at `url`; an empty table for one that answers nothing.

    allow_files: as of `connect`.

    Raises VlmlakeError with DuckDB's message if the statement is wrong, or if there is none or more than one.
    """
    # `query` and `query_table` put names together out of parts.
    named = [table for table in tables.FINDINGS if table in query.lower() or "query" in query.lower()]
    with connect(url, storage_options, allow_files, named) as connection:
        try:
            statements = connection.extract_statements(query)
            if len(statements) != 1:
                raise VlmlakeError(f"SQL: expected one statement, got {len(statements)}")
            relation = connection.sql(query)
            return pa.table({}) if relation is None else relation.to_arrow_table()
        except duckdb.Error as error:
            raise VlmlakeError(f"SQL: {in_a_line(error)}") from error


def in_a_line(error: duckdb.Error) -> str:
    """What DuckDB says, without the drawing of where in the statement."""
    return " ".join(line.strip() for line in str(error).split("\n\n")[0].splitlines())
