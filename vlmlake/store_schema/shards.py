"""One batch's part of an array as the bytes of one Zarr v3 shard, so that it reaches the store in a single put.

The layout is that of Zarr's `sharding_indexed` codec (zarr-specs, codecs/sharding-indexed): encoded chunks one after
the other, each zstd with a CRC-32C behind it, then an index of (offset, length) per chunk as little-endian uint64, then
its CRC-32C. zarr-python reads it; writing through it costs a task and a comparison with the fill value per chunk, four
times the compression itself.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from typing import Any

import google_crc32c
import numcodecs
import numpy as np

MISSING = 2**64 - 1
CHECKSUM_BYTES = 4
COMPRESSION_LEVEL = -1
THREADS = max(1, min(8, os.cpu_count() or 1))
"""Of the encoder, unless told otherwise."""


@dataclass(frozen=True)
class Shard:
    """parts: its bytes, in order. largest: the largest |x| of a float array, infinity where a value overflowed: one per
    slice along the split axis, one for all where there is none.
    """

    parts: Sequence[bytes]
    largest: tuple[float, ...]

    @property
    def bytes(self) -> int:
        return sum(len(part) for part in self.parts)

    @property
    def crc32(self) -> int:
        """CRC-32 of all its bytes. A CRC-32C would be the same for all shards: each part ends in its own."""
        checksum = 0
        for part in self.parts:
            checksum = zlib.crc32(part, checksum)
        return checksum


def encode_shard(
    values: np.ndarray,
    shape: Sequence[int],
    chunks: Sequence[int],
    fill_value: float | int,
    split: int | None = None,
    threads: int | None = None,
) -> Shard:
    """values: what is there, in the dtype of the array, from the shard's first corner on. shape, chunks: of the whole
    shard, which chunks divide. Chunks of nothing but the fill value are left out. split: an axis of chunk length 1 that
    the largest |x| is told apart by. threads: that compress, THREADS where none is said.
    """
    grid = [whole // piece for whole, piece in zip(shape, chunks, strict=True)]
    touched = [-(-there // piece) for there, piece in zip(values.shape, chunks, strict=True)]
    places = list(product(*(range(count) for count in touched)))
    encoder = _Encoder(values, tuple(chunks), fill_value)
    share = -(-len(places) // (threads or THREADS)) or 1
    parts = [places[start : start + share] for start in range(0, len(places), share)]
    if len(parts) > 1:
        with ThreadPoolExecutor(len(parts), "vlmlake-encoder") as pool:
            encoded = [piece for done in pool.map(lambda part: list(encoder(part)), parts) for piece in done]
    else:
        encoded = [piece for part in parts for piece in encoder(part)]
    index = np.full((*grid, 2), MISSING, "<u8")
    offset, contents = 0, []
    largest = [0.0] * (1 if split is None else shape[split])
    for place, content, magnitude in encoded:
        at = 0 if split is None else place[split]
        largest[at] = max(largest[at], magnitude)
        if content is not None:
            index[place] = offset, len(content) + CHECKSUM_BYTES
            offset += len(content) + CHECKSUM_BYTES
            contents += [content, _checksum(content)]
    tail = index.tobytes()
    return Shard([*contents, tail, _checksum(tail)], tuple(largest))


def fill(array: np.ndarray, value: float | int) -> None:
    """Set every element. By bits: numpy converts each value of a half-precision array on its own."""
    width: np.dtype[Any] = np.dtype(f"u{array.dtype.itemsize}")
    array.view(width).fill(np.array(value, array.dtype).view(width))


def largest_magnitude(values: np.ndarray) -> float:
    """Largest |x| of an array, NaN left out; 0 for one of integers or of NaN alone."""
    pieces = np.array_split(values.reshape(-1), -(-values.size // 65_536) or 1)
    return max((_magnitude(piece) or 0.0 for piece in pieces), default=0.0)


@dataclass(frozen=True)
class _Encoder:
    values: np.ndarray
    chunks: tuple[int, ...]
    fill_value: float | int

    def __call__(self, places: Sequence[tuple[int, ...]]) -> Iterator[tuple[tuple[int, ...], bytes | None, float]]:
        """For each place in the grid of chunks its bytes, none where there is nothing, and its largest |x|."""
        codec = numcodecs.Zstd(level=COMPRESSION_LEVEL)
        whole = np.empty(self.chunks, self.values.dtype)
        for place in places:
            piece = self.values[
                tuple(slice(at * length, (at + 1) * length) for at, length in zip(place, self.chunks, strict=True))
            ]
            if piece.shape != self.chunks:
                fill(whole, self.fill_value)
                whole[tuple(slice(0, length) for length in piece.shape)] = piece
                piece = whole
            piece = np.ascontiguousarray(piece)
            magnitude = self._integers(piece) if piece.dtype.kind in "iu" else _magnitude(piece)
            yield place, None if magnitude is None else codec.encode(piece.view(np.uint8)), magnitude or 0.0

    def _integers(self, piece: np.ndarray) -> float | None:
        return None if (piece == self.fill_value).all() else 0.0


def _checksum(content: bytes) -> bytes:
    return int(google_crc32c.value(content)).to_bytes(CHECKSUM_BYTES, "little")


def _magnitude(piece: np.ndarray) -> float | None:
    """Largest |x| of floats, none where all are NaN.

    Compared as bits, in place of arithmetic that processors lack for half precision: without the sign they sort like
    the numbers, infinity above all of them and NaN above infinity.
    """
    if piece.dtype.kind in "iu":
        return 0.0
    width: np.dtype[Any] = np.dtype(f"u{piece.dtype.itemsize}")
    infinity = np.array(np.inf, piece.dtype).view(width)
    bits = piece.view(width) & ~np.array(-0.0, piece.dtype).view(width)
    largest = bits.max(initial=0)
    if largest > infinity:
        numbers = bits <= infinity
        if not numbers.any():
            return None
        bits[~numbers] = 0
        largest = bits.max(initial=0)
    return float(np.array(largest, width).view(piece.dtype)[()])
