"""What can be asked of a lake at one moment: its tables, in memory, and its arrays, unread; connections share it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from vlmlake.errors import VlmlakeError
from vlmlake.queries.meter import Meter
from vlmlake.queries.relations import RELATIONS
from vlmlake.queries.run_view import RunView
from vlmlake.queries.scan import lazy_relation
from vlmlake.queries.views import LAYER_NUMBER, SAMPLES, margins_view, metrics_wide_view
from vlmlake.store_schema import tables
from vlmlake.store_schema.counted_storage import CountedStorage
from vlmlake.store_schema.index import findings_of
from vlmlake.store_schema.lake import Lake, open_lake
from vlmlake.store_schema.run import Run
from vlmlake.store_schema.run_record import read_record

BATCH_VIEWS = {"examples": tables.EXAMPLES, "answers": tables.ANSWERS, "batches": tables.BATCH}
"""Views of the batches' rows, and their columns."""

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


@dataclass(frozen=True)
class Catalog:
    """views: the runs. rows: of the tables, by name. storage: counts what is read."""

    storage: CountedStorage
    views: tuple[RunView, ...]
    rows: Mapping[str, pa.Table]

    @classmethod
    def at(
        cls,
        url: str,
        storage_options: Mapping[str, Any] | None = None,
        runs: Sequence[str] | None = None,
        findings: Collection[str] = tuple(tables.FINDINGS),
    ) -> Catalog:
        """Read the tables of the lake at `url`, each file once; of arrays what one image of each run has of patches.

        runs: names of runs, or of models that have one run; all of them unless given. findings: of the tables that
        analyses write those that are read, the others stay empty.

        Raises VlmlakeError if there is no lake, UnknownNameError if there is no such run.
        """
        if isinstance(runs, str):
            raise VlmlakeError(f"runs is {runs!r}, expected a list of names, as in [{runs!r}]")
        storage = CountedStorage.of(open_lake(url, storage_options).storage)
        lake = Lake(storage)
        there = lake.runs
        chosen = there if runs is None else dict.fromkeys(lake.run(name).name for name in runs)
        views = tuple(RunView.of(Run(storage, read_record(storage, name))) for name in chosen)
        batches = pa.concat_tables([tables.BATCH.empty_table(), *(view.rows for view in views)])
        found = {name: batches.select(schema.names) for name, schema in BATCH_VIEWS.items()}
        skipped = [view.run.skipped_rows() for view in views]
        found["skipped"] = pa.concat_tables([tables.SKIPPED.empty_table(), *skipped])
        paths = findings_of(storage, tuple(findings), None if runs is None else tuple(chosen))
        for table, schema in tables.FINDINGS.items():
            found[table] = tables.read(storage, [path for path in paths if path.startswith(f"{table}/")], schema)
        return cls(storage, views, {**found, "runs": _runs_table(views)})

    def connect(self, meter: Meter, allow_files: bool = False) -> duckdb.DuckDBPyConnection:
        """A connection with a view for each table and a relation for each kind of array. meter: of its scans."""
        connection = duckdb.connect()
        for name, table in self.rows.items():
            connection.register(name, table)
        for statement in (SAMPLES, LAYER_NUMBER, margins_view(), metrics_wide_view(self.rows["metrics"])):
            connection.execute(statement)
        for relation in RELATIONS:
            connection.register(relation.name, lazy_relation(relation, self.views, meter))
        for setting in (*OPEN, *(() if allow_files else NO_FILES), *LOCKED):
            connection.execute(f"SET {setting}")
        return connection


def _runs_table(views: Sequence[RunView]) -> pa.Table:
    """One row per run: run, model, examples planned, batches planned and committed, stored dtype."""
    facts = [
        {
            "run": view.name,
            "model": view.record.model,
            "examples": view.record.examples,
            "batches": view.record.extents.batches,
            "batches_done": len(view.commits),
            "dtype": view.record.stored_dtype,
        }
        for view in views
    ]
    types = [("examples", pa.int64()), ("batches", pa.int64()), ("batches_done", pa.int64()), ("dtype", pa.string())]
    return pa.Table.from_pylist(facts, schema=pa.schema([("run", pa.string()), ("model", pa.string()), *types]))
