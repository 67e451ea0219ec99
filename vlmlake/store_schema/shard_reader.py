"""The other way: which bytes of a shard hold a selection of its array, and those bytes as numbers.

Written beside zarr-python's own reader, which the tests compare it with, because that one asks for one shard at a time
and says neither which file nor which chunk is damaged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import google_crc32c
import numcodecs
import numpy as np

from vlmlake.store_schema.shards import CHECKSUM_BYTES, MISSING, fill

INDEX_ENTRY = 16
FARTHEST = 2**63 - 1
"""Last byte that a file can have."""
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"

RESIDUE = 0x48674BC7
"""CRC-32C of any bytes with their own CRC-32C, little-endian, behind them: checked so, nothing has to be cut off."""

Place = tuple[int, ...]
Span = tuple[int, int]
"""First byte and the one behind the last."""


class DamagedShardError(ValueError):
    """A shard that is not what its writer put; says what is wrong with it, without its name."""


@dataclass(frozen=True)
class ShardFormat:
    """shape, chunks: of one shard; dtype as stored."""

    shape: Place
    chunks: Place
    dtype: np.dtype[Any]
    fill_value: float | int

    @property
    def grid(self) -> Place:
        return tuple(whole // piece for whole, piece in zip(self.shape, self.chunks, strict=True))

    @property
    def index_bytes(self) -> int:
        """Length of the index with its checksum, the last part of every shard."""
        return prod(self.grid) * INDEX_ENTRY + CHECKSUM_BYTES

    @property
    def chunk_bytes(self) -> int:
        """Of one chunk, decoded."""
        return prod(self.chunks) * self.dtype.itemsize

    @property
    def longest_chunk(self) -> int:
        """More bytes than any encoded chunk has: what does not compress grows by less."""
        return self.chunk_bytes + self.chunk_bytes // 128 + 1024

    def index(self, tail: bytes) -> np.ndarray:
        """Offsets and lengths of all chunks, uint64 [*grid, 2], out of the last `index_bytes` of a shard.

        Raises DamagedShardError if they are cut or changed.
        """
        if len(tail) != self.index_bytes:
            raise DamagedShardError(f"its index has {len(tail)} bytes, expected {self.index_bytes}")
        if not _sound(tail):
            raise DamagedShardError("the checksum of its index does not hold")
        return np.frombuffer(tail[:-CHECKSUM_BYTES], "<u8").reshape(*self.grid, 2)

    def require_inside(self, spans: Iterable[Span], shard_bytes: int | None) -> None:
        """Raises DamagedShardError for a chunk that ends beyond the shard, or is longer than any chunk of its form.

        shard_bytes: length of the shard; none where nothing says it.
        """
        end = FARTHEST if shard_bytes is None else shard_bytes - self.index_bytes
        for first, behind in spans:
            if not (0 <= first < behind <= end and behind - first <= self.longest_chunk):
                raise DamagedShardError(f"its index has a chunk at the bytes {first} to {behind}, beyond it")

    def spans(self, index: np.ndarray, wanted: Sequence[np.ndarray]) -> dict[Place, Span]:
        """Where the chunks that hold the wanted elements lie, in the order of their bytes; not those never written.

        wanted: for each axis the elements, in any order.
        """
        return self.spans_at(index, self.places(wanted))

    def places(self, wanted: Sequence[np.ndarray]) -> list[Place]:
        """The chunks that hold the wanted elements."""
        return list(product(*(_distinct(axis // chunk) for axis, chunk in zip(wanted, self.chunks, strict=True))))

    def spans_at(self, index: np.ndarray, places: Iterable[Place]) -> dict[Place, Span]:
        """Where these chunks lie, as above."""
        found = {}
        for place in places:
            offset, length = (int(number) for number in index[place])
            if offset != MISSING:
                found[place] = (offset, offset + length)
        return dict(sorted(found.items(), key=lambda item: item[1]))

    def decode(self, encoded: bytes) -> np.ndarray:
        """One chunk. Raises DamagedShardError if its checksum does not hold, or it is no chunk of this form."""
        if not _sound(encoded):
            raise DamagedShardError("the checksum of a chunk does not hold")
        try:
            frame = memoryview(encoded)[:-CHECKSUM_BYTES]
            told = _content_size(frame)
            if told != self.chunk_bytes:
                raise ValueError(f"it says that it holds {told} bytes, expected {self.chunk_bytes}")
            values = np.empty(self.chunks, self.dtype)
            numcodecs.Zstd().decode(frame, out=values.reshape(-1).view(np.uint8))
            return values
        except (RuntimeError, ValueError) as error:
            raise DamagedShardError(f"a chunk cannot be decoded: {error}") from error

    def whole(self, content: bytes) -> np.ndarray:
        """The whole shard as an array of `shape`. Raises DamagedShardError as above."""
        index = self.index(content[-self.index_bytes :])
        wanted = [np.arange(length) for length in self.shape]
        spans = self.spans(index, wanted)
        self.require_inside(spans.values(), len(content))
        chunks = {place: content[start:end] for place, (start, end) in spans.items()}
        target = self.empty(self.shape)
        self.place(chunks, wanted, target)
        return target

    def empty(self, shape: Sequence[int], dtype: np.dtype[Any] | None = None) -> np.ndarray:
        """Nothing but the fill value. dtype: as stored where none is given."""
        array = np.empty(tuple(shape), dtype or self.dtype)
        fill(array, self.fill_value)
        return array

    def place(self, chunks: Mapping[Place, bytes], wanted: Sequence[np.ndarray], target: np.ndarray) -> None:
        """Decode chunks into `target`, whose element [i, j, ...] is the shard's [wanted[0][i], wanted[1][j], ...].

        The values become what `target` holds on the way, which is faster while they are in the processor's cache.
        """
        for place, encoded in chunks.items():
            values = self.decode(encoded)
            there, here = zip(*self._overlap(place, wanted), strict=True)
            target[_selection(here)] = values[_selection(there)]

    def _overlap(self, place: Place, wanted: Sequence[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """For each axis: elements of the chunk, and where in the target they belong."""
        for at, axis, chunk in zip(place, wanted, self.chunks, strict=True):
            here = np.flatnonzero(axis // chunk == at)
            yield axis[here] - at * chunk, here


def _selection(axes: Sequence[np.ndarray]) -> tuple[Any, ...]:
    """Slices where every axis is one run of neighbours, which numpy copies fastest."""
    if all(len(axis) == axis[-1] - axis[0] + 1 and (np.diff(axis) == 1).all() for axis in axes):
        return tuple(slice(int(axis[0]), int(axis[-1]) + 1) for axis in axes)
    return np.ix_(*axes)


def _distinct(numbers: np.ndarray) -> list[int]:
    """Different non-negative numbers, ascending."""
    found: list[int] = np.flatnonzero(np.bincount(numbers)).tolist()
    return found


def _content_size(frame: memoryview) -> int | None:
    """Bytes that a zstd frame says it holds (RFC 8878, 3.1.1.1); none where it does not say, or is no such frame."""
    if bytes(frame[:4]) != ZSTD_MAGIC or len(frame) < 6:
        return None
    descriptor = frame[4]
    single, width = descriptor >> 5 & 1, (0, 2, 4, 8)[descriptor >> 6]
    if width == 0:
        width = single
    first = 5 + (1 - single) + (0, 1, 2, 4)[descriptor & 3]
    field = bytes(frame[first : first + width])
    if not field or len(field) < width:
        return None
    return int.from_bytes(field, "little") + (256 if width == 2 else 0)


def _sound(content: bytes) -> bool:
    return len(content) > CHECKSUM_BYTES and google_crc32c.value(content) == RESIDUE
