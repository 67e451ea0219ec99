"""Commits: what is visible, what is missing. A batch's Parquet file, put in one step after its shards, commits it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import zarr

from vlmlake.store_schema import paths, tables
from vlmlake.store_schema.arrays import Arrays, allocate, open_arrays, shard_files, write_batch, write_once
from vlmlake.store_schema.run_record import RunRecord
from vlmlake.store_schema.storage import Storage


def create_run(storage: Storage, record: RunRecord, once: Arrays, vocabulary: Sequence[str]) -> None:
    """Lay out a run, its record last; a run that is already there is left alone.

    once: `unembedding` and `final_norm`. vocabulary: the text of every token id.
    """
    if storage.exists(paths.run_record(record.name)):
        return
    write_once(allocate(storage, record), once)
    words = [{"id": number, "text": text} for number, text in enumerate(vocabulary)]
    storage.write(paths.vocabulary(record.name), tables.to_parquet(words, tables.VOCABULARY))
    storage.write(paths.run_record(record.name), record.to_json())


def committed_batches(storage: Storage, run: str) -> tuple[int, ...]:
    """Numbers of the batches that are visible, ascending."""
    names = storage.names(paths.batches(run))
    return tuple(sorted(int(name.removesuffix(".parquet")) for name in names if name.endswith(".parquet")))


def missing_batches(storage: Storage, record: RunRecord) -> tuple[int, ...]:
    """Numbers of the planned batches that nobody has committed yet, ascending."""
    done = set(committed_batches(storage, record.name))
    return tuple(number for number in range(record.extents.batches) if number not in done)


def commit_batch(
    storage: Storage, record: RunRecord, number: int, arrays: Arrays, rows: Sequence[Mapping[str, Any]]
) -> int:
    """Write a batch's shards, wait until they are safe, then make the batch visible; returns the bytes written.

    rows: one mapping per example with the columns of `tables.BATCH`.
    """
    group: zarr.Group = open_arrays(storage, record.name, read_only=False)
    largest = write_batch(group, record, number, arrays)
    shards = [f"{paths.arrays(record.name)}/{file}" for file in shard_files(group, number)]
    storage.sync(shards)
    metadata = {"run": record.name, **{f"largest:{name}": repr(value) for name, value in largest.items()}}
    commit = tables.to_parquet(rows, tables.BATCH, metadata)
    storage.write(paths.batch(record.name, number), commit)
    return sum(storage.size(shard) for shard in shards) + len(commit)
