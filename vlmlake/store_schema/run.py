"""Run: one pass of one model over one dataset, read as a lazy xarray Dataset, its tables and its tokens."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import dask
import dask.array as da
import numpy as np
import polars as pl
import pyarrow as pa
import xarray as xr

from vlmlake.errors import UnknownNameError
from vlmlake.store_schema import paths, seals, tables
from vlmlake.store_schema.arrays import shard_file
from vlmlake.store_schema.commits import rows_of, visible
from vlmlake.store_schema.index import findings_of
from vlmlake.store_schema.lazy_array import lazy_array
from vlmlake.store_schema.run_record import RunRecord
from vlmlake.store_schema.schema import ROLES
from vlmlake.store_schema.storage import Storage
from vlmlake.store_schema.stored_array import StoredArray

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
    "row",
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
        """How many of `record.extents.batches` are visible."""
        return len(visible(self.storage, self.record))

    def content(self) -> str:
        """A digest of what is visible: the same content, the same digest."""
        digest = hashlib.sha256()
        for number, commit in sorted(visible(self.storage, self.record).items()):
            shards = {name: facts.crc32 for name, facts in sorted(commit.shards.items())}
            told = [self.name, number, shards, commit.rows.to_pylist()]
            digest.update(json.dumps(told, sort_keys=True, default=str).encode())
        return digest.hexdigest()

    def rows(self) -> pa.Table:
        """The visible rows of tables.BATCH, in the order of the batches."""
        return rows_of(visible(self.storage, self.record))

    def examples(self) -> pl.DataFrame:
        """One row per visible example with the columns of both tables, examples and answers, in row order."""
        return _examples(self.rows())

    def samples(self) -> pl.DataFrame:
        """One row per visible example and sampled answer, with the columns of tables.SAMPLES."""
        return tables.sample_rows(tables.frame(self.rows()))

    def skipped(self) -> pl.DataFrame:
        """One row per example that `--skip-bad` left out, with the columns of tables.SKIPPED."""
        return tables.frame(self.skipped_rows())

    def skipped_rows(self) -> pa.Table:
        """The same as Arrow has it."""
        there = [path for path in (paths.skipped(self.name),) if self.storage.exists(path)]
        return tables.read(self.storage, there, tables.SKIPPED)

    def findings(self, table: str) -> pl.DataFrame:
        """The rows of this run in one of tables.FINDINGS, of all analyses or interventions; read now.

        Raises DamagedError if one of its files is not as it was written.
        """
        there = findings_of(self.storage, [table], [self.name])
        return tables.frame(tables.read(self.storage, there, tables.FINDINGS[table])).filter(run=self.name)

    def findings_digest(self, table: str) -> str:
        """A digest of what `findings` would read: of the paths of the files and of their seals, not of their rows.

        Raises DamagedError if the end of one of its files is no footer.
        """
        there = findings_of(self.storage, [table], [self.name])
        footers = tables.footers(self.storage, there)
        told = [[path, footer.get(seals.KEY)] for path, footer in zip(there, footers, strict=True)]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()

    def largest(self) -> pl.DataFrame:
        """The largest |x| that was stored: array, layer (null where the array has none), largest, over the visible
        batches.
        """
        rows, commits = [], visible(self.storage, self.record).values()
        for spec in (spec for spec in self.record.batch_specs if spec.is_float):
            told = [commit.shards[spec.name].largest for commit in commits]
            layers = self.record.layers if "layer" in spec.dimensions else (None,)
            for layer, values in zip(layers, zip(*told, strict=True), strict=False):
                rows.append({"array": spec.name, "layer": layer, "largest": max(values)})
        return pl.DataFrame(rows, schema={"array": pl.String, "layer": pl.String, "largest": pl.Float64})

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """The text of every token id."""
        return tuple(_vocabulary(self.storage, self.name))

    def dataset(self, raw: bool = False) -> xr.Dataset:
        """The visible examples as a lazy Dataset over Dask; nothing but the tables is read now.

        Dimensions carry labels: `example` (its id), `layer` (`embed`, `block_0`, ...), `position` (`prompt_last`,
        `answer_0`, ...), `prefix` (a number; the coordinate `prefix_of` of an example says which one it continues).
        Floats are float32 unless `raw`, then as stored; NaN (-1 for integers) marks padding. The Dataset can be sent to
        other processes, which read for themselves. The coordinate `token_text` has the text of every token id; where
        answers were drawn, `sampled_answer` [example, sample] has them.
        """
        commits = visible(self.storage, self.record)
        batches = rows_of(commits)
        examples = _examples(batches)
        prefixes = np.unique(examples["prefix"].to_numpy())
        rows = {"example": examples["row"].to_numpy(), "prefix": prefixes}
        arrays = {}
        for spec in self.record.specs:
            shards = {} if spec.once else {number: commit.shards[spec.name] for number, commit in commits.items()}
            stored = StoredArray(self.storage, self.record, spec, rows.get(spec.dimensions[0]), shards, raw)
            arrays[spec.name] = xr.Variable(spec.dimensions, lazy_array(stored), {"description": spec.description})
        columns: dict[str, Any] = {name: ("example", examples[name].to_numpy()) for name in EXAMPLE_COORDINATES}
        return xr.Dataset(
            arrays,
            coords={
                "example": ("example", examples["example"].to_numpy()),
                "prefix": ("prefix", prefixes),
                "prefix_of": ("example", examples["prefix"].to_numpy()),
                "layer": ("layer", list(self.record.layers)),
                "position": ("position", list(self.record.positions)),
                "token_text": ("vocab", self._token_texts()),
                **columns,
                **_sampled_answers(batches, examples),
            },
            attrs={
                "run": self.name,
                "model": self.record.model,
                "family": self.record.identity.get("model", {}).get("type", ""),
                "final_norm_epsilon": self.record.final_norm.get("epsilon"),
                "lake": self.storage.url,
            },
        )

    def _token_texts(self) -> da.Array:
        """[vocab], of strings, read when asked for."""
        texts = dask.delayed(_vocabulary)(self.storage, self.name)  # type: ignore[attr-defined]
        lazy: da.Array = da.from_delayed(texts, (self.record.extents.vocab,), dtype=object)  # type: ignore[no-untyped-call]
        return lazy

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
        """Bytes of every array: of its visible shards; of an array that the run shares, its file."""
        commits = visible(self.storage, self.record).values()
        return {
            spec.name: self.storage.length(shard_file(self.record, spec, 0))
            if spec.once
            else sum(commit.shards[spec.name].bytes for commit in commits)
            for spec in self.record.specs
        }


def _vocabulary(storage: Storage, run: str) -> np.ndarray:
    words = tables.read(storage, [paths.vocabulary(run)], tables.VOCABULARY)
    return np.array(words["text"].to_pylist(), dtype=object)


def _sampled_answers(batches: pa.Table, examples: pl.DataFrame) -> dict[str, Any]:
    """The coordinate `sampled_answer`, None where an example has fewer draws than another; nothing without draws."""
    drawn = tables.sample_rows(tables.frame(batches))
    if drawn.is_empty():
        return {}
    most = 1 + max(drawn["sample"].to_list())
    answers = np.full((examples.height, most), None, dtype=object)
    rows = dict(zip(examples["example"], range(examples.height), strict=True))
    for example, number, answer in drawn.select("example", "sample", "answer").iter_rows():
        answers[rows[example], number] = answer
    return {"sampled_answer": (("example", "sample"), answers)}


def _examples(rows: pa.Table) -> pl.DataFrame:
    return tables.frame(rows.select(tables.EXAMPLE_ROWS.names)).sort("row", "example")
