"""Writing a run's arrays: those that it shares, once; one batch's shards, each whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vlmlake.errors import VlmlakeError
from vlmlake.store_schema import paths
from vlmlake.store_schema.commit import ShardFacts
from vlmlake.store_schema.metadata import SEPARATOR
from vlmlake.store_schema.run_record import RunRecord
from vlmlake.store_schema.schema import ONCE_ARRAYS, ArraySpec
from vlmlake.store_schema.shard_reader import ShardFormat
from vlmlake.store_schema.shards import encode_shard, largest_magnitude
from vlmlake.store_schema.storage import Storage

FLOAT16_LARGEST = 65504.0

Arrays = Mapping[str, np.ndarray]
"""Values by the name of their array."""


def write_once(storage: Storage, record: RunRecord, arrays: Arrays) -> None:
    """Put the arrays that the whole run shares. Raises VlmlakeError if a value does not fit the stored dtype."""
    for spec in ONCE_ARRAYS:
        _put(storage, record, spec, 0, arrays[spec.name], "the whole run")


def write_batch(
    storage: Storage, record: RunRecord, number: int, arrays: Arrays, threads: int | None = None
) -> dict[str, ShardFacts]:
    """Put one batch's shards, each whole; says of each what it is.

    arrays: every array of the record's batch_specs by name, with at most the planned length on each axis: a batch
    brings its own longest length, and what lies beyond stays unwritten. A shard that an interrupted writer left is
    replaced. threads: of the encoder, all cores' where none is said.

    Raises VlmlakeError if a value does not fit the stored dtype, before anything of that array is written.
    """
    where = f"batch {number}"
    return {
        spec.name: _put(storage, record, spec, number, arrays[spec.name], where, threads) for spec in record.batch_specs
    }


def shard_file(record: RunRecord, spec: ArraySpec, number: int) -> str:
    """Path of one batch's shard; of an array that the run shares, number 0 is all of it."""
    name = SEPARATOR.join(["c", str(number), *("0" for _ in spec.dimensions[1:])])
    return f"{paths.arrays(record.name)}/{spec.name}/{name}"


def shard_format(record: RunRecord, spec: ArraySpec) -> ShardFormat:
    """How the shards of an array are laid out."""
    layout = spec.layout(record.extents, record.stored_dtype)
    return ShardFormat(layout.shards, layout.chunks, spec.dtype(record.stored_dtype), spec.fill_value)


def _put(
    storage: Storage,
    record: RunRecord,
    spec: ArraySpec,
    number: int,
    values: np.ndarray,
    where: str,
    threads: int | None = None,
) -> ShardFacts:
    planned = tuple(record.extents.shard(dimension) for dimension in spec.dimensions)
    if values.ndim != len(planned) or any(given > there for given, there in zip(values.shape, planned, strict=True)):
        raise ValueError(f"{spec.name} of {where} has shape {values.shape}, the plan has {planned}")
    form = shard_format(record, spec)
    stored = _stored(spec, values, form.dtype, where)
    split = spec.dimensions.index("layer") if "layer" in spec.dimensions else None
    shard = encode_shard(stored, form.shape, form.chunks, spec.fill_value, split, threads)
    _require_finite(spec, max(shard.largest), form.dtype, where)
    storage.write(shard_file(record, spec, number), shard.parts)
    return ShardFacts(shard.bytes, shard.crc32, shard.largest)


def _stored(spec: ArraySpec, values: np.ndarray, dtype: np.dtype[Any], where: str) -> np.ndarray:
    """The values in the dtype of the store. Raises VlmlakeError where one is beyond it."""
    if values.dtype == dtype:
        return values
    _require_finite(spec, largest_magnitude(values), dtype, where)
    return values.astype(dtype)


def _require_finite(spec: ArraySpec, largest: float, dtype: np.dtype[Any], where: str) -> None:
    if dtype == np.float16 and largest > FLOAT16_LARGEST:
        size = "" if np.isinf(largest) else f" of size {largest:.6g}"
        raise VlmlakeError(
            f"{spec.name} of {where} holds a value{size} beyond float16, which ends at {FLOAT16_LARGEST:g}: run again "
            "with --dtype bfloat16 or float32"
        )
