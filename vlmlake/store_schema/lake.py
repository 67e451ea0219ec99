"""Lake and Run: open a lake by URL, read a run as a lazy xarray Dataset and the tables as Arrow or Polars."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.dataset as pads
import xarray as xr

from vlmlake.errors import UnknownNameError, VlmlakeError
from vlmlake.store_schema import paths, tables
from vlmlake.store_schema.arrays import open_arrays
from vlmlake.store_schema.commits import committed_batches
from vlmlake.store_schema.run_record import RunRecord, read_record
from vlmlake.store_schema.schema import ARRAYS, FORMAT_VERSION, ROLES
from vlmlake.store_schema.storage import Storage

WHOLE_DIMENSIONS = ("head", "token", "prefix_token", "query", "key", "hidden", "vocab")
"""Axes that a Dask chunk holds whole: one task reads one layer or position of one batch."""

EXAMPLE_COORDINATES = (
    "dataset",
    "split",
    "image",
    "image_sha256",
    "question",
    "gold",
    "answer",
    "first_log_prob",
    "first_gap",
    "first_entropy",
    "prefix_tokens",
    "suffix_tokens",
    "answer_tokens",
)
"""Columns of the tables that travel with the Dataset along `example`."""


def open_lake(url: str, storage_options: Mapping[str, Any] | None = None) -> Lake:
    """Open the lake at `url` for reading.

    url: a local folder or any URL that fsspec knows; storage_options: handed to its file system.

    Raises VlmlakeError if there is no lake, or if a newer vlmlake wrote it.
    """
    storage = Storage.at(url, storage_options)
    try:
        header = json.loads(storage.read(paths.LAKE))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise VlmlakeError(f"no lake at {url}: expected {paths.LAKE} there; `vlmlake extract` writes one") from error
    except ValueError as error:
        raise VlmlakeError(f"{paths.LAKE} of {url} is not valid JSON: {error}") from error
    written = header.get("format_version") if isinstance(header, dict) else None
    if not isinstance(written, int):
        raise VlmlakeError(f"{paths.LAKE} of {url} names no format_version: is this a lake?")
    if written > FORMAT_VERSION:
        raise VlmlakeError(
            f"the lake at {url} has format {written}, this vlmlake reads up to {FORMAT_VERSION}: upgrade vlmlake"
        )
    return Lake(storage)


def refuse_foreign_lake(url: str, storage_options: Mapping[str, Any] | None = None) -> None:
    """Raises VlmlakeError if there is a lake at `url` that this version cannot write to; nothing there is fine."""
    if Storage.at(url, storage_options).exists(paths.LAKE):
        open_lake(url, storage_options)


def create_lake(url: str, storage_options: Mapping[str, Any] | None = None) -> Lake:
    """Open the lake at `url`, making an empty one first where there is none."""
    storage = Storage.at(url, storage_options)
    if not storage.exists(paths.LAKE):
        storage.write(paths.LAKE, json.dumps({"format_version": FORMAT_VERSION}).encode() + b"\n")
    return open_lake(url, storage_options)


@dataclass(frozen=True)
class Lake(Mapping[str, xr.Dataset]):
    """A mapping from run names to lazy Datasets; a model's short name is enough where it has one run only."""

    storage: Storage

    @property
    def url(self) -> str:
        return self.storage.url

    @property
    def runs(self) -> tuple[str, ...]:
        """Names of all runs, sorted."""
        names = self.storage.names(paths.RUNS)
        return tuple(name for name in names if self.storage.exists(paths.run_record(name)))

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

    def arrow(self, table: str) -> pads.Dataset:
        """`examples`, `answers` or `results` of all runs as a lazy Arrow dataset; only committed rows are there.

        Raises VlmlakeError if there is no such table.
        """
        if table == "results":
            return tables.scan(self.storage, self._result_files(), tables.RESULTS)
        batch_tables = {"examples": tables.EXAMPLES, "answers": tables.ANSWERS}
        if table not in batch_tables:
            raise VlmlakeError(f"no table named {table}: there are examples, answers and results")
        files = [path for name in self.runs for path in self.run(name).batch_files()]
        return tables.scan(self.storage, files, batch_tables[table])

    def table(self, name: str) -> pl.DataFrame:
        """`examples`, `answers` or `results` of all runs in memory."""
        return _frame(self.arrow(name))

    def _result_files(self) -> list[str]:
        files = []
        for analysis in self.storage.names(paths.RESULTS):
            for run in self.storage.names(f"{paths.RESULTS}/{analysis}"):
                folder = f"{paths.RESULTS}/{analysis}/{run}"
                files += [f"{folder}/{name}" for name in self.storage.names(folder) if _is_table(name)]
        return files


@dataclass(frozen=True)
class Run:
    """One run of a lake: its record, its arrays and its tables."""

    storage: Storage
    record: RunRecord

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def batches_done(self) -> int:
        """How many of `record.extents.batches` are committed."""
        return len(committed_batches(self.storage, self.record))

    def batch_files(self) -> list[str]:
        """Paths of the commits, one Parquet file per committed batch."""
        return [paths.batch(self.name, number) for number in committed_batches(self.storage, self.record)]

    def examples(self) -> pl.DataFrame:
        """One row per committed example with the columns of both tables, examples and answers, in row order."""
        return _frame(tables.scan(self.storage, self.batch_files(), tables.BATCH)).sort("row")

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """The text of every token id."""
        return tuple(_frame(tables.scan(self.storage, [paths.vocabulary(self.name)], tables.VOCABULARY))["text"])

    def dataset(self, raw: bool = False) -> xr.Dataset:
        """The committed examples as a lazy Dataset over Dask; nothing but the tables is read now.

        Dimensions carry labels: `example` (its id), `layer` (`embed`, `block_0`, ...), `position` (`prompt_last`,
        `answer_0`, ...), `prefix` (a number; the coordinate `prefix_of` of an example says which one it continues).
        Floats are float32 unless `raw`, then as stored; NaN (-1 for integers) marks padding.
        """
        extents = self.record.extents
        examples = self.examples()
        arrays = xr.open_zarr(
            open_arrays(self.storage, self.name).store,
            consolidated=False,
            mask_and_scale=False,
            chunks={
                **dict.fromkeys(WHOLE_DIMENSIONS, -1),
                "example": extents.example_rows,
                "prefix": extents.prefix_rows,
                "layer": 1,
                "position": 1,
            },
        )
        prefixes = np.unique(examples["prefix"].to_numpy())
        arrays = _rows(arrays, "example", examples["row"].to_numpy())
        arrays = _rows(arrays, "prefix", prefixes)
        if not raw:
            arrays = arrays.map(_as_float32, keep_attrs=True)
        columns: dict[str, Any] = {name: ("example", examples[name].to_numpy()) for name in EXAMPLE_COORDINATES}
        return arrays.assign_coords(
            example=("example", examples["example"].to_numpy()),
            prefix=("prefix", prefixes),
            prefix_of=("example", examples["prefix"].to_numpy()),
            layer=("layer", list(self.record.layers)),
            position=("position", list(self.record.positions)),
            **columns,
        ).assign_attrs(run=self.name, model=self.record.model, lake=self.storage.url)

    def tokens(self, example: str) -> pl.DataFrame:
        """Every token of one example, prefix first: position, id, text, role, image_row, image_column.

        The image's row and column are null for tokens that stand for no patch.

        Raises VlmlakeError if the run has no such example.
        """
        dataset = self.dataset(raw=True)
        if example not in dataset.indexes["example"]:
            raise VlmlakeError(f"run {self.name} has no example {example}; lake.table('examples') lists them")
        one = dataset.sel(example=example)
        prefix = dataset.sel(prefix=one["prefix_of"].item())
        before = int(one["prefix_tokens"])
        after = int(one["suffix_tokens"]) + int(one["answer_tokens"])
        ids = np.concatenate([prefix["prefix_token_id"][:before], one["token_id"][:after]])
        roles = np.concatenate([prefix["prefix_token_role"][:before], one["token_role"][:after]])
        cells = {
            name: np.concatenate([prefix[name][:before], np.full(after, -1)]) for name in ("image_row", "image_column")
        }
        frame = pl.DataFrame(
            {
                "position": np.arange(before + after),
                "id": ids,
                "text": [self.vocabulary[token] for token in ids],
                "role": [ROLES[role] for role in roles],
                **cells,
            }
        )
        return frame.with_columns(pl.when(pl.col(name) >= 0).then(pl.col(name)).alias(name) for name in cells)

    def array_bytes(self) -> dict[str, int]:
        """Bytes on disk of every array."""
        return {spec.name: self.storage.size(f"{paths.arrays(self.name)}/{spec.name}") for spec in ARRAYS}


def _is_table(name: str) -> bool:
    return name.endswith(".parquet") and not name.startswith(".")


def _frame(dataset: pads.Dataset) -> pl.DataFrame:
    try:
        frame = pl.from_arrow(dataset.to_table())
    except (pa.ArrowInvalid, OSError) as error:
        raise VlmlakeError(f"a table cannot be read: {str(error).splitlines()[0]}") from error
    assert isinstance(frame, pl.DataFrame)
    return frame


def _rows(arrays: xr.Dataset, dimension: str, rows: np.ndarray) -> xr.Dataset:
    """The given rows of an axis; the axis as it is where that is all of it."""
    if len(rows) == arrays.sizes[dimension]:
        return arrays
    return arrays.isel({dimension: rows})


def _as_float32(array: xr.DataArray) -> xr.DataArray:
    return array.astype(np.float32) if array.dtype.kind == "f" else array
