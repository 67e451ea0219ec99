"""One conversation with a lake in SQL: statements, their answers, and what each of them fetched."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from vlmlake.errors import VlmlakeError
from vlmlake.queries.catalog import Catalog
from vlmlake.queries.meter import LIMIT, Meter, ScanFacts
from vlmlake.queries.narrow import is_select, named_parameters, narrowed
from vlmlake.store_schema import tables

Parameters = Mapping[str, Any]


@dataclass(frozen=True)
class Answer:
    """table: of the statement, without columns for one that answers nothing. scans: of array relations, in the order in
    which they ran. bytes, requests: what was fetched from the storage while it ran, by all sessions of its catalog.
    """

    table: pa.Table
    scans: tuple[ScanFacts, ...]
    bytes: int
    requests: int


@dataclass(frozen=True)
class Session:
    """One connection to a catalog, and the meter of its scans. Serves one thread at a time."""

    catalog: Catalog
    connection: duckdb.DuckDBPyConnection
    meter: Meter

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
        """Open the lake at `url`; arguments as of `connect`, but that the limit is on a statement's scans together.

        Raises VlmlakeError if there is no lake, or no such run.
        """
        return cls.of(Catalog.at(url, storage_options, runs, findings), allow_files, limit)

    @classmethod
    def of(cls, catalog: Catalog, allow_files: bool = False, limit: int | None = LIMIT) -> Session:
        """Another one over what was read already."""
        meter = Meter(limit)
        return cls(catalog, catalog.connect(meter, allow_files), meter)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def ask(self, query: str, parameters: Parameters | None = None) -> Answer:
        """The answer to one statement. parameters: of `$name` in it, by name.

        Raises VlmlakeError with DuckDB's message if the statement is wrong, or if there is none or more than one;
        TooMuchError, before anything of an array is fetched, if it would fetch more than the limit.
        """
        storage = self.catalog.storage
        bytes_before, reads_before = storage.bytes_read, storage.reads
        table = self._run(query, _by_name(parameters), reads=True)
        scans = tuple(self.meter.scans)
        return Answer(table, scans, storage.bytes_read - bytes_before, storage.reads - reads_before)

    def explain(self, query: str, parameters: Parameters | None = None) -> tuple[ScanFacts, ...]:
        """What `ask` would fetch of arrays; of them the indexes of shards are fetched, and what tokens are, which is
        not counted.

        Raises VlmlakeError as `ask`, and for anything but a SELECT, which would be run.
        """
        try:
            self._run(query, _by_name(parameters), reads=False)
        finally:
            self.meter.reads = True
        return tuple(self.meter.scans)

    def names(self) -> dict[str, tuple[str, ...]]:
        """Tables, views and relations with their columns."""
        rows = self.connection.sql(
            "SELECT table_name, list(column_name ORDER BY column_index) FROM duckdb_columns() "
            "WHERE NOT internal GROUP BY ALL"
        ).fetchall()
        return {name: tuple(columns) for name, columns in sorted(rows)}

    def _run(self, query: str, parameters: dict[str, Any], reads: bool) -> pa.Table:
        self.meter.begin(reads)
        try:
            statements = self.connection.extract_statements(query)
            if len(statements) != 1:
                raise VlmlakeError(f"SQL: expected one statement, got {len(statements)}")
            if not reads and not is_select(self.connection, query):
                raise VlmlakeError(
                    f"SQL: expected a SELECT to explain, got {statements[0].type.name}: explain the SELECT within it"
                )
            asked = narrowed(self.connection, query, parameters)
            given = parameters if asked == query else named_parameters(self.connection, asked, parameters)
            relation = self.connection.sql(asked, params=given) if given else self.connection.sql(asked)
            return pa.table({}) if relation is None else relation.to_arrow_table()
        except duckdb.Error as error:
            if (refusal := self.meter.refusal) is not None:
                self.meter.refusal = None  # else its traceback would hold this connection for ever
                raise refusal from error
            raise VlmlakeError(f"SQL: {in_a_line(error)}") from error


def _by_name(parameters: Parameters | None) -> dict[str, Any]:
    if parameters is not None and not isinstance(parameters, Mapping):
        raise VlmlakeError(f"parameters are {parameters!r}, expected values by the names of $name")
    return dict(parameters or {})


def in_a_line(error: duckdb.Error) -> str:
    """What DuckDB says, without the drawing of where in the statement."""
    told = str(error).split("\n\n")[0].split("Candidate functions:")[0]
    return " ".join(line.strip() for line in told.splitlines()).strip()
