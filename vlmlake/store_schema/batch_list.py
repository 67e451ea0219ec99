"""All commits of a finished run in one file: what a reader would otherwise fetch one by one, or could not list."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from vlmlake.errors import DamagedError
from vlmlake.store_schema import json_text, paths, tables
from vlmlake.store_schema.commit import RUN, Commit, decode_shards, encode_shards
from vlmlake.store_schema.commit_rows import require_own_rows
from vlmlake.store_schema.run_record import RunRecord
from vlmlake.store_schema.storage import Storage

BATCHES = "batches"
"""Key of the footer: for each batch its number, the bytes of its commit, how many rows it has, and its shards."""


def encode_batch_list(run: str, commits: Mapping[int, Commit], sizes: Mapping[int, int]) -> bytes:
    """The file; its rows are those of all commits, in the order of the batches. sizes: bytes of each commit's file."""
    listed = [
        {
            "batch": number,
            "bytes": sizes[number],
            "rows": commit.rows.num_rows,
            "shards": json.loads(encode_shards(commit.shards)),
        }
        for number, commit in sorted(commits.items())
    ]
    rows = pa.concat_tables([tables.BATCH.empty_table(), *(commits[number].rows for number in sorted(commits))])
    return tables.encode(rows, {RUN: run, BATCHES: json.dumps(listed, separators=(",", ":"))})


def read_batch_list(storage: Storage, record: RunRecord) -> dict[int, tuple[int, Commit]] | None:
    """By batch, the bytes of its commit and the commit; none where the run is not finished.

    Raises DamagedError if the list is damaged or another run's.
    """
    path = paths.batch_list(record.name)
    where = f"{path} of {storage.url}"
    try:
        content = storage.read(path)
    except FileNotFoundError:
        return None
    rows, pairs = tables.decode(content, tables.BATCH, where)
    if pairs.get(RUN) != record.name:
        raise DamagedError(f"{where} is that of the run {pairs.get(RUN)}: remove it, `vlmlake finish` makes it again")
    try:
        return _commits(json_text.parse(pairs.get(BATCHES, "")), record, rows, where)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise DamagedError(f"{where} does not say what the batches are: {type(error).__name__}: {error}") from error


def remove_batch_list(storage: Storage, run: str) -> None:
    """The run is not finished any more."""
    storage.delete(paths.batch_list(run))


def _commits(
    listed: list[dict[str, Any]], record: RunRecord, rows: pa.Table, where: str
) -> dict[int, tuple[int, Commit]]:
    found, first = {}, 0
    for item in listed:
        number, count = _number(item["batch"], record.extents.batches - 1), _number(item["rows"], rows.num_rows - first)
        if number in found:
            raise ValueError(f"batch {number} is there twice")
        shards = decode_shards(json.dumps(item["shards"]), where)
        commit = Commit(record.name, number, shards, rows.slice(first, count))
        require_own_rows(record, commit, where)
        found[number] = int(item["bytes"]), commit
        first += count
    if first != rows.num_rows:
        raise ValueError(f"its batches have {first} rows, it has {rows.num_rows}")
    return found


def _number(value: Any, most: int) -> int:
    number = int(value)
    if not 0 <= number <= most:
        raise ValueError(f"it says {number}, expected 0 to {most}")
    return number
