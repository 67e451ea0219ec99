"""Commits: what is visible, what is missing. A batch's Parquet file, put in one step after its shards, commits it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from vlmlake.errors import VlmlakeError
from vlmlake.store_schema import paths, tables
from vlmlake.store_schema.arrays import Arrays, allocate, write_batch, write_once
from vlmlake.store_schema.run_record import RunRecord, read_record
from vlmlake.store_schema.storage import Storage

BATCH_FILE = re.compile(r"(\d{6})\.parquet")


def run_exists(storage: Storage, record: RunRecord) -> bool:
    """Whether the run is laid out already. Raises VlmlakeError if the one that is there was planned otherwise."""
    if not storage.exists(paths.run_record(record.name)):
        return False
    there = read_record(storage, record.name)
    if replace(there, versions={}) != replace(record, versions={}):
        raise VlmlakeError(
            f"run {record.name} of {storage.url} was planned otherwise, by {dict(there.versions)}: "
            f"use those versions, or remove {paths.run_record(record.name)} and its folder"
        )
    return True


def create_run(
    storage: Storage,
    record: RunRecord,
    once: Arrays,
    vocabulary: Sequence[str],
) -> None:
    """Lay out a new run, its record last.

    once: `unembedding` and `final_norm`. vocabulary: the text of every token id.
    """
    write_once(allocate(storage, record), once)
    storage.sync(storage.files(paths.arrays(record.name)))
    words = [{"id": number, "text": text} for number, text in enumerate(vocabulary)]
    storage.write(paths.vocabulary(record.name), tables.to_parquet(words, tables.VOCABULARY))
    storage.write(paths.run_record(record.name), record.to_json())


def record_skipped(storage: Storage, run: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Say which examples a pass left out, in place of what an earlier one said. rows: of tables.SKIPPED."""
    if rows or storage.exists(paths.skipped(run)):
        storage.write(paths.skipped(run), tables.to_parquet(rows, tables.SKIPPED))


def committed_batches(storage: Storage, record: RunRecord) -> tuple[int, ...]:
    """Numbers of the planned batches that are visible: their file is there and so is their shard of every array.

    A batch that lost a shard counts as missing, so that the next pass writes it again. Ascending; other files in the
    folders are not looked at.
    """
    found = (BATCH_FILE.fullmatch(name) for name in storage.names(paths.batches(record.name)))
    numbers = {int(match[1]) for match in found if match}
    for spec in record.batch_specs:
        if not numbers:
            break
        shards = storage.names(f"{paths.arrays(record.name)}/{spec.name}/c")
        numbers &= {int(name) for name in shards if name.isdecimal()}
    return tuple(number for number in range(record.extents.batches) if number in numbers)


def missing_batches(storage: Storage, record: RunRecord) -> tuple[int, ...]:
    """Numbers of the planned batches that nobody has committed yet, ascending."""
    done = set(committed_batches(storage, record))
    return tuple(number for number in range(record.extents.batches) if number not in done)


def commit_batch(
    storage: Storage,
    record: RunRecord,
    number: int,
    arrays: Arrays,
    rows: Sequence[Mapping[str, Any]],
) -> int:
    """Write a batch's shards, each safe once it is put, then make the batch visible; returns the bytes written.

    rows: one mapping per example with the columns of `tables.BATCH`.
    """
    largest, written = write_batch(storage, record, number, arrays)
    metadata = {"run": record.name, **{f"largest:{name}": repr(value) for name, value in largest.items()}}
    commit = tables.to_parquet(rows, tables.BATCH, metadata)
    storage.write(paths.batch(record.name, number), commit)
    return written + len(commit)
