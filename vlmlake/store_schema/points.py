"""Vectors at scattered places of a stored array: no chunk is fetched that holds none of them, none is decoded twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from vlmlake.store_schema.arrays import shard_format
from vlmlake.store_schema.shard_part import ShardPart, read_chunks, read_indexes, unknown_indexes
from vlmlake.store_schema.shard_reader import DamagedShardError, Place, ShardFormat
from vlmlake.store_schema.stored_array import StoredArray


@dataclass(frozen=True)
class Cost:
    """What it takes to read something. bytes: encoded; requests: for chunks, and for indexes that were not known."""

    chunks: int = 0
    bytes: int = 0
    requests: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.chunks + other.chunks, self.bytes + other.bytes, self.requests + other.requests)

    def times(self, factor: float) -> Cost:
        """About as much so many times."""
        return Cost(*(int(number * factor) for number in (self.chunks, self.bytes, self.requests)))


def cost_of(array: StoredArray, points: Sequence[np.ndarray]) -> Cost:
    """What `read_points` would fetch; nothing but the indexes of the shards is."""
    parts = [points_in.part for points_in in _by_shard(array, points)]
    unknown = len(unknown_indexes(parts))
    spans = [part.spans(index) for part, index in zip(parts, read_indexes(array.storage, parts), strict=True)]
    chunks = sum(len(found) for found in spans)
    return Cost(chunks, sum(end - start for found in spans for start, end in found.values()), chunks + unknown)


def read_points(array: StoredArray, points: Sequence[np.ndarray]) -> np.ndarray:
    """The vectors at some places, [n, rest]: `rest` are the axes that `points` says nothing of.

    points: for each of the first axes the places on it, [n] each: the i-th vector lies where the i-th of all of them
    say. What was never written is the array's fill value.

    Raises DamagedError as the array does.
    """
    form = shard_format(array.record, array.spec)
    rest = array.shape[len(points) :]
    found = form.empty((len(points[0]), *rest), array.dtype)
    shards = _by_shard(array, points)
    for points_in, chunks in zip(shards, read_chunks(array.storage, [one.part for one in shards]), strict=True):
        try:
            points_in.place(chunks, found)
        except DamagedShardError as error:
            raise points_in.part.damaged(str(error)) from error
    return found


@dataclass(frozen=True)
class _PointsInShard:
    """which: places of the points in the whole, in the order of their chunks. lead: chunk on the first axes of each
    group of neighbours in `which`; bounds: where each group begins, and the end. inside: [n, axes],
    places within the chunk.
    """

    part: ShardPart
    which: np.ndarray
    lead: Sequence[Place]
    bounds: np.ndarray
    inside: np.ndarray

    def place(self, chunks: dict[Place, bytes], target: np.ndarray) -> None:
        """Decode the chunks and put their vectors where they belong."""
        form, axes = self.part.form, self.inside.shape[1]
        for lead, start, end in zip(self.lead, self.bounds, self.bounds[1:], strict=False):
            rows, inside = self.which[start:end], tuple(self.inside[start:end].T)
            for tail in _tails(form, axes):
                encoded = chunks.get((*lead, *tail))
                if encoded is None:
                    continue
                first = [at * piece for at, piece in zip(tail, form.chunks[axes:], strict=True)]
                there = target[
                    (slice(None), *(slice(at, at + piece) for at, piece in zip(first, form.chunks[axes:], strict=True)))
                ]
                cut = tuple(slice(0, length) for length in there.shape[1:])
                there[rows] = form.decode(encoded)[(*inside, *cut)]


def _by_shard(array: StoredArray, points: Sequence[np.ndarray]) -> list[_PointsInShard]:
    form, axes = shard_format(array.record, array.spec), len(points)
    rows = points[0] if array.rows is None else array.rows[points[0]]
    places = np.stack([rows, *points[1:]], axis=1).astype(np.int64)
    batches = places[:, 0] // form.shape[0]
    places[:, 0] %= form.shape[0]
    lead = places // form.chunks[:axes]
    numbers = np.ravel_multi_index(tuple(lead.T), form.grid[:axes]) if len(lead) else np.empty(0, np.int64)
    order = np.lexsort((numbers, batches))
    cuts = np.flatnonzero(np.diff(batches[order])) + 1
    return [
        _in_one_shard(array, form, int(batches[which[0]]), which, lead[which], numbers[which], places[which])
        for which in np.split(order, cuts)
        if len(which)
    ]


def _in_one_shard(
    array: StoredArray,
    form: ShardFormat,
    batch: int,
    which: np.ndarray,
    lead: np.ndarray,
    numbers: np.ndarray,
    places: np.ndarray,
) -> _PointsInShard:
    axes = lead.shape[1]
    first = np.flatnonzero(np.diff(numbers, prepend=-1))
    chunks = [tuple(place) for place in lead[first].tolist()]
    wanted = [(*place, *tail) for place in chunks for tail in _tails(form, axes)]
    bounds = np.append(first, len(which))
    return _PointsInShard(array.part(batch, wanted), which, chunks, bounds, places % form.chunks[:axes])


def _tails(form: ShardFormat, axes: int) -> list[Place]:
    """Chunks on the axes behind the first ones: in one chunk of these there is one for each."""
    return list(product(*(range(count) for count in form.grid[axes:])))
