"""The budget: bytes, chunks and objects that a run will take, array by array, before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, prod

from vlmlake.store_schema.batches import Batch, Lengths
from vlmlake.store_schema.run_record import RunRecord
from vlmlake.store_schema.schema import EMBED, ArraySpec, Dimension

METADATA_OBJECTS = 6
"""lake.json, index.json, run.json, vocabulary.parquet, batches.parquet and the Zarr group's zarr.json; every array has
one zarr.json more."""


@dataclass(frozen=True)
class ArrayBudget:
    """One array. bytes: its values, padding left out, before compression; objects: its files, a shard each."""

    name: str
    dimensions: tuple[Dimension, ...]
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    chunks: int
    objects: int


@dataclass(frozen=True)
class Budget:
    """What a run, or a part of it, takes. objects: of all arrays with the metadata and the commits."""

    examples: int
    rows: int
    prefixes: int
    tokens: int
    arrays: tuple[ArrayBudget, ...]
    batches: int

    @property
    def bytes(self) -> int:
        return sum(array.bytes for array in self.arrays)

    @property
    def chunks(self) -> int:
        return sum(array.chunks for array in self.arrays)

    @property
    def objects(self) -> int:
        return sum(array.objects + 1 for array in self.arrays) + METADATA_OBJECTS + self.batches


def estimate(record: RunRecord, batches: Sequence[Batch], lengths: Sequence[Lengths], sees_suffix: bool) -> Budget:
    """The budget of the given batches of a run, every answer at its longest.

    lengths: one per row of the run. sees_suffix: whether the prefix's attention reaches the suffix's tokens.
    """
    answer = record.extents.tokens - max(row.suffix for row in lengths)
    sizes = _Sizes(record, lengths, answer, sees_suffix)
    rows = [lengths[index] for batch in batches for index in batch.examples]
    prefixes = [lengths[prefix[0]] for batch in batches for prefix in batch.prefixes]
    return Budget(
        examples=record.examples,
        rows=len(rows),
        prefixes=len(prefixes),
        tokens=sum(row.suffix + answer for row in rows) + sum(prefix.prefix for prefix in prefixes),
        arrays=tuple(sizes.array(spec, batches) for spec in record.specs),
        batches=len(batches),
    )


@dataclass(frozen=True)
class _Sizes:
    record: RunRecord
    lengths: Sequence[Lengths]
    answer: int
    sees_suffix: bool

    def array(self, spec: ArraySpec, batches: Sequence[Batch]) -> ArrayBudget:
        layout = spec.layout(self.record.extents, self.record.stored_dtype)
        dtype = spec.dtype(self.record.stored_dtype)
        if spec.once:
            values = prod(layout.shape)
            chunks = prod(ceil(length / piece) for length, piece in zip(layout.shape, layout.chunks, strict=True))
            objects = 1
        else:
            values = sum(self._row(spec, row) for row in self._owned(spec, batches))
            chunks = sum(self._chunks(spec, layout.chunks, batch) for batch in batches)
            objects = len(batches)
        return ArrayBudget(
            spec.name, spec.dimensions, layout.shape, dtype.name, values * dtype.itemsize, chunks, objects
        )

    def _owned(self, spec: ArraySpec, batches: Iterable[Batch]) -> list[Lengths]:
        """Lengths of every row of the array's first axis; of a prefix, those of the first row that continues it."""
        if spec.dimensions[0] == "prefix":
            return [self.lengths[prefix[0]] for batch in batches for prefix in batch.prefixes]
        return [self.lengths[index] for batch in batches for index in batch.examples]

    def _row(self, spec: ArraySpec, row: Lengths) -> int:
        return prod(self._length(spec, dimension, row) for dimension in spec.dimensions[1:])

    def _length(self, spec: ArraySpec, dimension: Dimension, row: Lengths) -> int:
        """How many values one row has along a dimension."""
        if dimension == "layer":
            return self.record.extents.layers - (spec.blocks_only and EMBED in self.record.layers)
        if dimension in ("token", "query"):
            return row.suffix + self.answer
        if dimension in ("prefix_token", "prefix_query"):
            return row.prefix
        if dimension == "key":
            if spec.dimensions[0] == "example":
                return row.prefix + row.suffix + self.answer
            return row.prefix + (row.suffix if self.sees_suffix else 0)
        return self.record.extents.length(dimension)

    def _chunks(self, spec: ArraySpec, chunk: Sequence[int], batch: Batch) -> int:
        """Chunks that a batch touches: the rows it has, each axis at the longest of them."""
        rows = self._owned(spec, [batch])
        counts = [ceil(len(rows) / chunk[0])]
        for dimension, piece in zip(spec.dimensions[1:], chunk[1:], strict=True):
            counts.append(ceil(max(self._length(spec, dimension, row) for row in rows) / piece))
        return prod(counts)
