"""One array of a run, its visible rows, as something that numpy's slices can be taken of: what Dask reads from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vlmlake.errors import DamagedError
from vlmlake.store_schema.arrays import shard_file, shard_format
from vlmlake.store_schema.commit import ShardFacts
from vlmlake.store_schema.retries import BeyondEndError
from vlmlake.store_schema.run_record import RunRecord
from vlmlake.store_schema.schema import ArraySpec
from vlmlake.store_schema.shard_reader import DamagedShardError, Place, ShardFormat, Span
from vlmlake.store_schema.storage import Storage

INDEXES_KEPT = 4096
"""Shard indexes that a process remembers; each is read once for all layers and positions."""

AxisKey = int | slice | list[int] | np.ndarray
Key = AxisKey | tuple[AxisKey, ...]


@dataclass(frozen=True, eq=False)
class StoredArray:
    """rows: for every place on the first axis the row of the run's array, each in a batch of `shards`; none for an
    array that the run shares. shards: what the commits say of the array's shards, by batch. raw: floats as they are
    stored, else as float32.

    Immutable and picklable; holds no open file.
    """

    storage: Storage
    record: RunRecord
    spec: ArraySpec
    rows: np.ndarray | None
    shards: Mapping[int, ShardFacts] = field(repr=False)
    raw: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        shape = [self.record.extents.length(dimension) for dimension in self.spec.dimensions]
        return (shape[0] if self.rows is None else len(self.rows), *shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float32) if self.spec.is_float and not self.raw else self._stored_dtype

    @property
    def _stored_dtype(self) -> np.dtype[Any]:
        return self.spec.dtype(self.record.stored_dtype)

    @property
    def ndim(self) -> int:
        return len(self.spec.dimensions)

    def __getitem__(self, key: Key) -> np.ndarray:
        """The selected elements in memory; nothing but their chunks is fetched.

        key: a whole number, a slice or a list for each axis, or for the first ones; lists on several axes select
        their crossings, as one after the other would.

        Raises DamagedError naming the batch and the file where a shard is missing, cut, or changed.
        """
        keys = key if isinstance(key, tuple) else (key,)
        keys = (*keys, *(slice(None) for _ in range(self.ndim - len(keys))))
        wanted = [_places(part, length) for part, length in zip(keys, self.shape, strict=True)]
        values = self._read(wanted)
        return values[tuple(0 if isinstance(part, int | np.integer) else slice(None) for part in keys)]

    def _read(self, wanted: list[np.ndarray]) -> np.ndarray:
        form = shard_format(self.record, self.spec)
        target = form.empty([len(axis) for axis in wanted], self.dtype)
        if target.size == 0:
            return target
        rows = wanted[0] if self.rows is None else self.rows[wanted[0]]
        batches = rows // form.shape[0]
        parts = [
            _Part(self, form, int(number), [rows[batches == number] % form.shape[0], *wanted[1:]])
            for number in np.unique(batches)
        ]
        for part, chunks in zip(parts, _chunks(self.storage, parts), strict=True):
            here = np.flatnonzero(batches == part.number)
            neighbours = here[-1] - here[0] + 1 == len(here)
            values = (
                target[here[0] : here[-1] + 1] if neighbours else form.empty((len(here), *target.shape[1:]), self.dtype)
            )
            try:
                form.place(chunks, part.wanted, values)
            except DamagedShardError as error:
                raise part.damaged(str(error)) from error
            if not neighbours:
                target[here] = values
        return target


@dataclass(frozen=True)
class _Part:
    """What is wanted of one shard: for each axis the elements."""

    array: StoredArray
    form: ShardFormat
    number: int
    wanted: list[np.ndarray]

    @property
    def path(self) -> str:
        return shard_file(self.array.record, self.array.spec, self.number)

    def damaged(self, why: str) -> DamagedError:
        array = self.array
        return DamagedError(
            f"{array.spec.name} of batch {self.number} of {array.record.name} is damaged: {why} ({self.path} of "
            f"{array.storage.url}); `vlmlake verify` says what else is"
        )

    def learn(self, tail: bytes) -> np.ndarray:
        """The shard's index out of its last bytes, remembered where the shard is known by its checksum."""
        try:
            index = self.form.index(tail)
        except DamagedShardError as error:
            raise self.damaged(str(error)) from error
        if key := self.remembered():
            _indexes[key] = index
            while len(_indexes) > INDEXES_KEPT:
                _indexes.pop(next(iter(_indexes)), None)
        return index

    def index_span(self) -> tuple[str, int, int]:
        """Where the shard's index lies; counted from the end only on the web, since not every object store does."""
        facts, size = self.array.shards.get(self.number), self.form.index_bytes
        if facts is None and not self.array.spec.once:
            raise self.damaged("rows of other batches point to it, and no commit says that it is there")
        if facts and facts.bytes < size:
            raise self.damaged(f"its commit says {facts.bytes} bytes, less than its index has")
        if facts is None and not self.array.storage.listable:
            return self.path, -size, 0
        end = facts.bytes if facts else self._length()
        return self.path, max(0, end - size), end

    def _length(self) -> int:
        try:
            return self.array.storage.length(self.path)
        except FileNotFoundError as error:
            raise self.damaged("its shard is missing") from error

    def spans(self, index: np.ndarray) -> dict[Place, Span]:
        """Where the wanted chunks lie, all inside the shard."""
        facts = self.array.shards.get(self.number)
        found = self.form.spans(index, self.wanted)
        try:
            self.form.require_inside(found.values(), facts.bytes if facts else None)
        except DamagedShardError as error:
            raise self.damaged(str(error)) from error
        return found

    def remembered(self) -> tuple[str, str, int] | None:
        """Names this very shard, whatever is put in its place later."""
        facts = self.array.shards.get(self.number)
        return (self.array.storage.address, self.path, facts.crc32) if facts else None


_indexes: dict[tuple[str, str, int], np.ndarray] = {}
"""Shard indexes that this process has read, the last INDEXES_KEPT of them."""


def _chunks(storage: Storage, parts: Sequence[_Part]) -> list[dict[Place, bytes]]:
    """For each part its encoded chunks; two rounds of requests for all parts together, one where indexes are known."""
    spans = [part.spans(index) for part, index in zip(parts, _read_indexes(storage, parts), strict=True)]
    asked = [(part.path, *span) for part, found in zip(parts, spans, strict=True) for span in found.values()]
    contents = iter(_fetched(storage, parts, asked))
    return [{place: next(contents) for place in found} for found in spans]


def _read_indexes(storage: Storage, parts: Sequence[_Part]) -> list[np.ndarray]:
    known = [_indexes.get(key) if (key := part.remembered()) else None for part in parts]
    unknown = [part for part, index in zip(parts, known, strict=True) if index is None]
    tails = iter(_fetched(storage, unknown, [part.index_span() for part in unknown]) if unknown else ())
    return [part.learn(next(tails)) if index is None else index for part, index in zip(parts, known, strict=True)]


def _fetched(storage: Storage, parts: Sequence[_Part], spans: Sequence[tuple[str, int, int]]) -> list[bytes]:
    try:
        return storage.read_spans(spans)
    except FileNotFoundError as error:
        gone = next((part for part in parts if not storage.exists(part.path)), parts[0])
        raise gone.damaged("its shard is missing") from error
    except BeyondEndError as error:
        cut = next(part for part in parts if part.path == error.path)
        raise cut.damaged("its shard is cut short") from error


def _places(key: AxisKey, length: int) -> np.ndarray:
    """The elements of an axis that a key selects. Raises IndexError for a number beyond it."""
    return np.atleast_1d(np.arange(length)[key])
