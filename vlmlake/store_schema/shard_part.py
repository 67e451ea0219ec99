"""What is wanted of one shard of an array, and how the wanted chunks of many shards are fetched together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vlmlake.errors import DamagedError
from vlmlake.store_schema.arrays import shard_file
from vlmlake.store_schema.commit import ShardFacts
from vlmlake.store_schema.retries import BeyondEndError
from vlmlake.store_schema.run_record import RunRecord
from vlmlake.store_schema.schema import ArraySpec
from vlmlake.store_schema.shard_reader import DamagedShardError, Place, ShardFormat, Span
from vlmlake.store_schema.storage import Storage

INDEXES_KEPT = 4096
"""Shard indexes that a process remembers; each is read once for all layers and positions."""


@dataclass(frozen=True)
class ShardPart:
    """facts: what the batch's commit says of the shard; none for an array that the run shares, or where no commit says
    that it is there. places: the chunks that are wanted of the shard of batch `number`.
    """

    storage: Storage
    record: RunRecord
    spec: ArraySpec
    facts: ShardFacts | None
    form: ShardFormat
    number: int
    places: Sequence[Place]

    @property
    def path(self) -> str:
        return shard_file(self.record, self.spec, self.number)

    def damaged(self, why: str) -> DamagedError:
        return DamagedError(
            f"{self.spec.name} of batch {self.number} of {self.record.name} is damaged: {why} ({self.path} of "
            f"{self.storage.url}); `vlmlake verify` says what else is"
        )

    def learn(self, tail: bytes) -> np.ndarray:
        """The shard's index out of its last bytes, remembered where the shard is known by its checksum."""
        try:
            index = self.form.index(tail)
        except DamagedShardError as error:
            raise self.damaged(str(error)) from error
        if key := self.remembered():
            _indexes[key] = index
            for old in list(_indexes)[: max(0, len(_indexes) - INDEXES_KEPT)]:  # a copy: other threads add meanwhile
                _indexes.pop(old, None)
        return index

    def index_span(self) -> tuple[str, int, int]:
        """Where the shard's index lies; counted from the end only on the web, since not every object store does."""
        facts, size = self.facts, self.form.index_bytes
        if facts is None and not self.spec.once:
            raise self.damaged("rows of other batches point to it, and no commit says that it is there")
        if facts and facts.bytes < size:
            raise self.damaged(f"its commit says {facts.bytes} bytes, less than its index has")
        if facts is None and not self.storage.listable:
            return self.path, -size, 0
        end = facts.bytes if facts else self._length()
        return self.path, max(0, end - size), end

    def _length(self) -> int:
        try:
            return self.storage.length(self.path)
        except FileNotFoundError as error:
            raise self.damaged("its shard is missing") from error

    def spans(self, index: np.ndarray) -> dict[Place, Span]:
        """Where the wanted chunks lie, all inside the shard."""
        found = self.form.spans_at(index, self.places)
        try:
            self.form.require_inside(found.values(), self.facts.bytes if self.facts else None)
        except DamagedShardError as error:
            raise self.damaged(str(error)) from error
        return found

    def remembered(self) -> tuple[str, str, int] | None:
        """Names this very shard, whatever is put in its place later."""
        return (self.storage.address, self.path, self.facts.crc32) if self.facts else None


_indexes: dict[tuple[str, str, int], np.ndarray] = {}
"""Shard indexes that this process has read, the last INDEXES_KEPT of them."""


def read_chunks(storage: Storage, parts: Sequence[ShardPart]) -> list[dict[Place, bytes]]:
    """For each part its encoded chunks; two rounds of requests for all parts together, one where indexes are known."""
    spans = [part.spans(index) for part, index in zip(parts, read_indexes(storage, parts), strict=True)]
    asked = [(part.path, *span) for part, found in zip(parts, spans, strict=True) for span in found.values()]
    contents = iter(_fetched(storage, parts, asked))
    return [{place: next(contents) for place in found} for found in spans]


def unknown_indexes(parts: Sequence[ShardPart]) -> list[ShardPart]:
    """Those whose index has to be fetched."""
    return [part for part in parts if (key := part.remembered()) is None or key not in _indexes]


def read_indexes(storage: Storage, parts: Sequence[ShardPart]) -> list[np.ndarray]:
    """The index of each; those that are not known in one round of requests."""
    known = [_indexes.get(key) if (key := part.remembered()) else None for part in parts]
    unknown = [part for part, index in zip(parts, known, strict=True) if index is None]
    tails = iter(_fetched(storage, unknown, [part.index_span() for part in unknown]) if unknown else ())
    return [part.learn(next(tails)) if index is None else index for part, index in zip(parts, known, strict=True)]


def _fetched(storage: Storage, parts: Sequence[ShardPart], spans: Sequence[tuple[str, int, int]]) -> list[bytes]:
    try:
        return storage.read_spans(spans)
    except FileNotFoundError as error:
        gone = next((part for part in parts if not storage.exists(part.path)), parts[0])
        raise gone.damaged("its shard is missing") from error
    except BeyondEndError as error:
        cut = next(part for part in parts if part.path == error.path)
        raise cut.damaged("its shard is cut short") from error
