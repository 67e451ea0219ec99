"""A run's Zarr group: allocate it once, write one batch's shards, open it for reading."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec
from zarr.errors import GroupNotFoundError

from vlmlake.errors import VlmlakeError
from vlmlake.store_schema import paths
from vlmlake.store_schema.run_record import RunRecord
from vlmlake.store_schema.schema import ONCE_ARRAYS, ROLES, ArraySpec, Layout
from vlmlake.store_schema.shards import encode_shard, largest_magnitude
from vlmlake.store_schema.storage import Storage

FLOAT16_LARGEST = 65504.0
COMPRESSION_LEVEL = -1

Arrays = Mapping[str, np.ndarray]
"""Values by the name of their array."""


def allocate(storage: Storage, record: RunRecord) -> zarr.Group:
    """Make every array of the run at its planned size; arrays that a killed run left are kept as they are.

    Raises VlmlakeError if one of those has another layout than planned.
    """
    group = zarr.open_group(storage.zarr_store(paths.arrays(record.name), read_only=False), mode="a", zarr_format=3)
    group.attrs.update({"layers": record.layers, "positions": record.positions, "roles": ROLES})
    for spec in record.specs:
        layout = spec.layout(record.extents, record.stored_dtype)
        if spec.name in group:
            _require_layout(_array(group, spec), spec, layout, record)
            continue
        group.create_array(
            spec.name,
            shape=layout.shape,
            chunks=layout.chunks,
            shards=layout.shards,
            dtype=spec.dtype(record.stored_dtype),
            fill_value=spec.fill_value,
            compressors=ZstdCodec(level=COMPRESSION_LEVEL),
            dimension_names=spec.dimensions,
            attributes={"description": spec.description},
            config={"write_empty_chunks": False},
        )
    return group


def open_arrays(storage: Storage, record: RunRecord) -> Mapping[str, zarr.Array[Any]]:
    """All arrays of a run by name, for reading, their metadata read.

    Raises VlmlakeError if its folder or an array is missing or its metadata damaged.
    """
    run = record.name
    store = storage.zarr_store(paths.arrays(run), read_only=True)
    try:
        group = zarr.open_group(store, mode="r", zarr_format=3, use_consolidated=False)
        arrays = {spec.name: _array(group, spec) for spec in record.specs if spec.name in group}
    except (FileNotFoundError, GroupNotFoundError) as error:
        raise VlmlakeError(f"run {run} of {storage.url} has no arrays: expected {paths.arrays(run)}") from error
    except ValueError as error:
        raise VlmlakeError(f"the metadata in {paths.arrays(run)} of {storage.url} is damaged: {error}") from error
    missing = [spec.name for spec in record.specs if spec.name not in arrays]
    if missing:
        raise VlmlakeError(f"run {run} of {storage.url} lacks the arrays {', '.join(missing)}")
    return arrays


def write_once(group: zarr.Group, arrays: Arrays) -> None:
    """Write the arrays that the whole run shares, each in full."""
    for spec in ONCE_ARRAYS:
        target = _array(group, spec)
        target[...] = _stored(spec, arrays[spec.name], target.dtype, "the whole run")


def write_batch(storage: Storage, record: RunRecord, number: int, arrays: Arrays) -> tuple[dict[str, float], int]:
    """Put one batch's shards, each whole; returns the largest |x| of every array of floats, and the bytes written.

    arrays: every array of the record's batch_specs by name, with at most the planned length on each axis: a batch
    brings its own longest length, and what lies beyond stays unwritten. A shard that an interrupted writer left is
    replaced.

    Raises VlmlakeError if a value does not fit the stored dtype, before anything of that array is written.
    """
    largest, written = {}, 0
    for spec, path in zip(record.batch_specs, shard_files(record, number), strict=True):
        values, layout = arrays[spec.name], spec.layout(record.extents, record.stored_dtype)
        planned = tuple(record.extents.shard(dimension) for dimension in spec.dimensions)
        if values.ndim != len(planned) or any(
            given > there for given, there in zip(values.shape, planned, strict=True)
        ):
            raise ValueError(f"{spec.name} of batch {number} has shape {values.shape}, the plan has {planned}")
        stored = _stored(spec, values, spec.dtype(record.stored_dtype), f"batch {number}")
        shard = encode_shard(stored, layout.shards, layout.chunks, spec.fill_value, COMPRESSION_LEVEL)
        _require_finite(spec, shard.largest, stored.dtype, f"batch {number}")
        storage.write(path, shard.parts)
        largest[spec.name] = shard.largest
        written += sum(len(part) for part in shard.parts)
    return {spec.name: largest[spec.name] for spec in record.batch_specs if spec.is_float}, written


def shard_files(record: RunRecord, number: int) -> list[str]:
    """Paths of one batch's shards, in the order of the record's batch_specs."""
    return [
        "/".join([paths.arrays(record.name), spec.name, "c", str(number), *("0" for _ in spec.dimensions[1:])])
        for spec in record.batch_specs
    ]


def _require_layout(array: zarr.Array[Any], spec: ArraySpec, layout: Layout, record: RunRecord) -> None:
    there = (array.shape, array.chunks, array.shards, array.dtype)
    planned = (layout.shape, layout.chunks, layout.shards, spec.dtype(record.stored_dtype))
    if there != planned:
        raise VlmlakeError(
            f"{spec.name} of the unfinished run {record.name} has (shape, chunks, shards, dtype) {there}, planned is "
            f"{planned}: remove {paths.arrays(record.name)} and run again"
        )


def _array(group: zarr.Group, spec: ArraySpec) -> zarr.Array[Any]:
    member = group[spec.name]
    assert isinstance(member, zarr.Array)
    return member


def _stored(spec: ArraySpec, values: np.ndarray, dtype: np.dtype, where: str) -> np.ndarray:
    """The values in the dtype of the store. Raises VlmlakeError where one is beyond it."""
    if values.dtype == dtype:
        return values
    _require_finite(spec, largest_magnitude(values), dtype, where)
    return values.astype(dtype)


def _require_finite(spec: ArraySpec, largest: float, dtype: np.dtype, where: str) -> None:
    if dtype == np.float16 and largest > FLOAT16_LARGEST:
        size = "" if np.isinf(largest) else f" of size {largest:.6g}"
        raise VlmlakeError(
            f"{spec.name} of {where} holds a value{size} beyond float16, which ends at {FLOAT16_LARGEST:g}: run again "
            "with --dtype float32"
        )
