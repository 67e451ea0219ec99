"""One conversation with a lake in SQL: statements, their answers, and what each of them fetched."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from vlmlake.errors import VlmlakeError
from vlmlake.queries.connect import connect, in_a_line
from vlmlake.queries.meter import LIMIT, ScanFacts
from vlmlake.store_schema import tables


@dataclass(frozen=True)
class Answer:
    """table: of the statement, without columns for one that answers nothing. scans: of array relations, in the order in
    which they ran. bytes, requests: what was fetched from the storage while it ran.
    """

    table: pa.Table
    scans: tuple[ScanFacts, ...]
    bytes: int
    requests: int


@dataclass(frozen=True)
class Session:
    """connection: with a view for each table and a relation for each array, as they were when it was opened."""

    connection: duckdb.DuckDBPyConnection

    @classmethod
    def at(
        cls,
        url: str,
        storage_options: Mapping[str, Any] | None = None,
        *,
        runs: Sequence[str] | None = None,
        allow_files: bool = False,
        limit: int | None = LIMIT,
        findings: Collection[str] = tuple(tables.FINDINGS),
    ) -> Session:
        """Open the lake at `url`; arguments as of `connect`. Raises VlmlakeError if there is none."""
        return cls(connect(url, storage_options, allow_files, findings))

    def ask(self, query: str, parameters: Mapping[str, Any] | None = None) -> Answer:
        """The answer to one statement. parameters: of `$name` in it.

        Raises VlmlakeError with DuckDB's message if the statement is wrong, or if there is none or more than one;
        TooMuchError, before anything of an array is fetched, if it would fetch more than the limit.
        """
        try:
            statements = self.connection.extract_statements(query)
            if len(statements) != 1:
                raise VlmlakeError(f"SQL: expected one statement, got {len(statements)}")
            relation = self.connection.sql(query, params=dict(parameters)) if parameters else self.connection.sql(query)
            table = pa.table({}) if relation is None else relation.to_arrow_table()
        except duckdb.Error as error:
            raise VlmlakeError(f"SQL: {in_a_line(error)}") from error
        return Answer(table, (), 0, 0)

    def explain(self, query: str, parameters: Mapping[str, Any] | None = None) -> tuple[ScanFacts, ...]:
        """What `ask` would fetch of arrays; nothing of them is fetched but the indexes of their shards."""
        return self.ask(query, parameters).scans

    def names(self) -> dict[str, tuple[str, ...]]:
        """Tables, views and relations with their columns."""
        rows = self.connection.sql(
            "SELECT table_name, list(column_name ORDER BY column_index) FROM duckdb_columns() WHERE NOT internal GROUP BY ALL"
        ).fetchall()
        return {name: tuple(columns) for name, columns in sorted(rows)}
