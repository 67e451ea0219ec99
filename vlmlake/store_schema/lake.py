"""Lake: open one by URL, list its runs, take each as a lazy xarray Dataset, and the tables as Arrow or Polars."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa
import xarray as xr

from vlmlake.errors import UnknownNameError, VlmlakeError
from vlmlake.store_schema import json_text, paths, tables
from vlmlake.store_schema.index import Index, findings_of, listed_index, listed_runs, written_index
from vlmlake.store_schema.run import Run
from vlmlake.store_schema.run_record import read_record
from vlmlake.store_schema.schema import FORMAT_VERSION
from vlmlake.store_schema.storage import Storage

TABLES = ("examples", "answers", "samples", "skipped", *tables.FINDINGS)
"""Tables of a lake."""


def open_lake(url: str, storage_options: Mapping[str, Any] | None = None) -> Lake:
    """Open the lake at `url` for reading.

    url: a local folder or any URL that fsspec knows; at http and https, finished runs are there. storage_options: for
    its file system.

    Raises VlmlakeError if there is no lake, or if another version's vlmlake wrote it.
    """
    return _opened(Storage.at(url, storage_options))


def _opened(storage: Storage) -> Lake:
    url = storage.url
    try:
        header = json_text.parse(storage.read(paths.LAKE))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise VlmlakeError(f"no lake at {url}: expected {paths.LAKE} there; `vlmlake extract` writes one") from error
    except ValueError as error:
        raise VlmlakeError(f"{paths.LAKE} of {url} is not valid JSON: {error}") from error
    written = header.get("format_version") if isinstance(header, dict) else None
    if type(written) is not int or written < 1:
        raise VlmlakeError(f"{paths.LAKE} of {url} names no format_version: is this a lake?")
    if written > FORMAT_VERSION:
        raise VlmlakeError(
            f"the lake at {url} has format {written}, this vlmlake reads {FORMAT_VERSION}: "
            "pip install --upgrade vlmlake"
        )
    if written < FORMAT_VERSION:
        raise VlmlakeError(
            f"the lake at {url} has format {written}, from before the first release; this vlmlake reads "
            f"{FORMAT_VERSION}: extract again, to another place"
        )
    return Lake(storage)


def refuse_foreign_lake(url: str, storage_options: Mapping[str, Any] | None = None) -> None:
    """Raises VlmlakeError if there is a lake at `url` that this version cannot write to; nothing there is fine."""
    storage = Storage.at(url, storage_options)
    storage.require_writable()
    if storage.exists(paths.LAKE):
        _opened(storage)


def create_lake(url: str, storage_options: Mapping[str, Any] | None = None) -> Lake:
    """Open the lake at `url`, making an empty one first where there is none."""
    storage = Storage.at(url, storage_options)
    storage.create(paths.LAKE, json.dumps({"format_version": FORMAT_VERSION}).encode() + b"\n")
    return _opened(storage)


@dataclass(frozen=True)
class Lake(Mapping[str, xr.Dataset]):
    """A mapping from run names to lazy Datasets; a model's short name is enough where it has one run only."""

    storage: Storage

    @property
    def url(self) -> str:
        return self.storage.url

    @property
    def runs(self) -> tuple[str, ...]:
        """Names of all runs, sorted; of the finished ones where the storage lists nothing."""
        return listed_runs(self.storage) if self.storage.listable else written_index(self.storage).runs

    def index(self) -> Index:
        """What is there now."""
        return listed_index(self.storage) if self.storage.listable else written_index(self.storage)

    def run(self, name: str) -> Run:
        """One run by its name or its model's short name. Raises UnknownNameError if none or several fit."""
        runs = self.runs
        fitting = [run for run in runs if run == name] or [run for run in runs if run.rpartition("-")[0] == name]
        if len(fitting) != 1:
            found = f"the runs {', '.join(fitting)} all fit" if fitting else f"there are {', '.join(runs) or 'none'}"
            raise UnknownNameError(f"no single run named {name} in {self.url}: {found}")
        return Run(self.storage, read_record(self.storage, fitting[0]))

    def __getitem__(self, name: str) -> xr.Dataset:
        return self.run(name).dataset()

    def __iter__(self) -> Iterator[str]:
        return iter(self.runs)

    def __len__(self) -> int:
        return len(self.runs)

    def __repr__(self) -> str:
        return f"<Lake {self.url}: {', '.join(self.runs) or 'no runs'}>"

    def tree(self) -> xr.DataTree:
        """All runs as one DataTree, a node per run."""
        return xr.DataTree.from_dict({name: self[name] for name in self.runs})

    def arrow(self, table: str) -> pa.Table:
        """One of TABLES, all runs together, as Arrow has it; only visible rows are there.

        `batches` holds the samples of each example as a list; `table` has them as rows.

        Raises VlmlakeError if there is no such table.
        """
        if table in tables.FINDINGS:
            return tables.read(self.storage, findings_of(self.storage, [table]), tables.FINDINGS[table])
        if table == "skipped":
            return pa.concat_tables(
                [tables.SKIPPED.empty_table(), *(self.run(name).skipped_rows() for name in self.runs)]
            )
        batch_tables = {"examples": tables.EXAMPLES, "answers": tables.ANSWERS, "batches": tables.BATCH}
        if table not in batch_tables:
            raise VlmlakeError(f"no table named {table}: there are {', '.join(TABLES)}; samples lie within batches")
        rows = pa.concat_tables([tables.BATCH.empty_table(), *(self.run(name).rows() for name in self.runs)])
        return rows.select(batch_tables[table].names)

    def table(self, name: str) -> pl.DataFrame:
        """One of TABLES, all runs together, in memory. Raises VlmlakeError if there is no such table."""
        if name == "samples":
            return tables.sample_rows(tables.frame(self.arrow("batches")))
        return tables.frame(self.arrow(name))
