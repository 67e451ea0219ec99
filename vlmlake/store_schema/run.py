"""Run: one pass of one model over one dataset, read as a lazy xarray Dataset, its tables and its tokens."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import xarray as xr

from vlmlake.errors import UnknownNameError
from vlmlake.store_schema import paths, tables
from vlmlake.store_schema.arrays import open_arrays
from vlmlake.store_schema.commits import committed_batches
from vlmlake.store_schema.run_record import RunRecord
from vlmlake.store_schema.schema import ROLES
from vlmlake.store_schema.storage import Storage

WHOLE_DIMENSIONS = ("head", "token", "prefix_token", "query", "prefix_query", "key", "hidden", "vocab")
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
        return tables.frame(tables.scan(self.storage, self.batch_files(), tables.EXAMPLE_ROWS)).sort("row", "example")

    def samples(self) -> pl.DataFrame:
        """One row per committed example and sampled answer, with the columns of tables.SAMPLES."""
        return tables.frame(tables.scan(self.storage, self.batch_files(), tables.BATCH)).pipe(tables.sample_rows)

    def skipped(self) -> pl.DataFrame:
        """One row per example that `--skip-bad` left out, with the columns of tables.SKIPPED."""
        there = [path for path in (paths.skipped(self.name),) if self.storage.exists(path)]
        return tables.frame(tables.scan(self.storage, there, tables.SKIPPED))

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """The text of every token id."""
        return tuple(tables.frame(tables.scan(self.storage, [paths.vocabulary(self.name)], tables.VOCABULARY))["text"])

    def dataset(self, raw: bool = False) -> xr.Dataset:
        """The committed examples as a lazy Dataset over Dask; nothing but the tables is read now.

        Dimensions carry labels: `example` (its id), `layer` (`embed`, `block_0`, ...), `position` (`prompt_last`,
        `answer_0`, ...), `prefix` (a number; the coordinate `prefix_of` of an example says which one it continues).
        Floats are float32 unless `raw`, then as stored; NaN (-1 for integers) marks padding.
        """
        extents = self.record.extents
        examples = self.examples()
        open_arrays(self.storage, self.record)  # xarray would open a run that lacks arrays without a word
        arrays = xr.open_zarr(
            self.storage.zarr_store(paths.arrays(self.name), read_only=True),
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
        arrays = arrays[list(self.record.arrays)]
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

        Raises UnknownNameError if the run has no such example.
        """
        dataset = self.dataset(raw=True)
        if example not in dataset.indexes["example"]:
            raise UnknownNameError(f"run {self.name} has no example {example}; lake.table('examples') lists them")
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
        return {spec.name: self.storage.size(f"{paths.arrays(self.name)}/{spec.name}") for spec in self.record.specs}


def _rows(arrays: xr.Dataset, dimension: str, rows: np.ndarray) -> xr.Dataset:
    """The given rows of an axis; the axis as it is where that is all of it."""
    if np.array_equal(rows, np.arange(arrays.sizes[dimension])):
        return arrays
    return arrays.isel({dimension: rows})


def _as_float32(array: xr.DataArray) -> xr.DataArray:
    return array.astype(np.float32) if array.dtype.kind == "f" else array
