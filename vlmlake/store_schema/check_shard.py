"""Whether a shard is what its writer put: fetched once, checked as a whole, by its index and by every chunk."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from vlmlake.store_schema.arrays import shard_file, shard_format
from vlmlake.store_schema.commit import ShardFacts
from vlmlake.store_schema.run_record import RunRecord
from vlmlake.store_schema.schema import ArraySpec
from vlmlake.store_schema.shard_reader import DamagedShardError, ShardFormat, Span
from vlmlake.store_schema.storage import Storage
from vlmlake.store_schema.verdict import Looked

CHUNKS_NAMED = 3
"""Of a shard's damaged chunks."""


@dataclass(frozen=True)
class ReadShard:
    """bytes: its length; chunks: those that it holds; values: of its whole shape, none where it is damaged."""

    bytes: int
    chunks: int
    values: np.ndarray | None
    problems: tuple[str, ...]

    @property
    def looked(self) -> Looked:
        """What it adds to what was looked at."""
        return Looked(shards=int(self.bytes > 0), chunks=self.chunks, bytes=self.bytes)


def read_shard(
    storage: Storage, record: RunRecord, spec: ArraySpec, number: int, facts: ShardFacts | None
) -> ReadShard:
    """facts: what the commit says of it; none for an array that the run shares, of which nothing is said."""
    path, form = shard_file(record, spec, number), shard_format(record, spec)
    try:
        content = storage.read(path)
    except FileNotFoundError:
        return ReadShard(0, 0, None, (f"{path} is missing",))
    problems = [*_against(facts, content, path)] if facts else []
    try:
        index = form.index(content[-form.index_bytes :])
    except DamagedShardError as error:
        return ReadShard(len(content), 0, None, (*problems, f"{path}: {error}"))
    spans = form.spans(index, [np.arange(length) for length in form.shape])
    problems += _named(path, islice(_damaged(form, content, spans), CHUNKS_NAMED + 1))
    if problems:
        return ReadShard(len(content), len(spans), None, tuple(problems))
    return ReadShard(len(content), len(spans), form.whole(content), ())


def _against(facts: ShardFacts, content: bytes, path: str) -> Iterator[str]:
    if len(content) != facts.bytes:
        yield f"{path} has {len(content)} bytes, its commit says {facts.bytes}"
    elif zlib.crc32(content) != facts.crc32:
        yield f"{path}: the checksum in its commit does not hold"


def _damaged(form: ShardFormat, content: bytes, spans: dict[tuple[int, ...], Span]) -> Iterator[str]:
    end = len(content) - form.index_bytes
    for place, (first, behind) in spans.items():
        if not first < behind <= end:
            yield f"chunk {place}: it ends beyond the shard"
            continue
        try:
            form.decode(content[first:behind])
        except DamagedShardError as error:
            yield f"chunk {place}: {error}"


def _named(path: str, found: Iterator[str]) -> list[str]:
    told = list(found)
    more = ["there are more damaged chunks"] if len(told) > CHUNKS_NAMED else []
    return [f"{path}: {what}" for what in (*told[:CHUNKS_NAMED], *more)]
