"""One array of a run, its visible rows, as something that numpy's slices can be taken of: what Dask reads from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vlmlake.store_schema.arrays import shard_format
from vlmlake.store_schema.commit import ShardFacts
from vlmlake.store_schema.run_record import RunRecord
from vlmlake.store_schema.schema import ArraySpec
from vlmlake.store_schema.shard_part import ShardPart, read_chunks
from vlmlake.store_schema.shard_reader import DamagedShardError, Place
from vlmlake.store_schema.storage import Storage

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

    def part(self, number: int, places: Sequence[Place]) -> ShardPart:
        """Some chunks of one batch's shard."""
        form = shard_format(self.record, self.spec)
        return ShardPart(self.storage, self.record, self.spec, self.shards.get(number), form, number, places)

    def _read(self, wanted: list[np.ndarray]) -> np.ndarray:
        form = shard_format(self.record, self.spec)
        target = form.empty([len(axis) for axis in wanted], self.dtype)
        if target.size == 0:
            return target
        rows = wanted[0] if self.rows is None else self.rows[wanted[0]]
        batches = rows // form.shape[0]
        boxes = {int(number): [rows[batches == number] % form.shape[0], *wanted[1:]] for number in np.unique(batches)}
        parts = [self.part(number, form.places(box)) for number, box in boxes.items()]
        for part, chunks in zip(parts, read_chunks(self.storage, parts), strict=True):
            here = np.flatnonzero(batches == part.number)
            neighbours = here[-1] - here[0] + 1 == len(here)
            values = (
                target[here[0] : here[-1] + 1] if neighbours else form.empty((len(here), *target.shape[1:]), self.dtype)
            )
            try:
                form.place(chunks, boxes[part.number], values)
            except DamagedShardError as error:
                raise part.damaged(str(error)) from error
            if not neighbours:
                target[here] = values
        return target


def _places(key: AxisKey, length: int) -> np.ndarray:
    """The elements of an axis that a key selects. Raises IndexError for a number beyond it."""
    return np.atleast_1d(np.arange(length)[key])
