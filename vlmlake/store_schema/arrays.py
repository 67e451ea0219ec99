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
from vlmlake.store_schema.storage import Storage

FLOAT16_LARGEST = 65504.0
FLOAT16_INFINITY = 0x7C00

Arrays = Mapping[str, np.ndarray]
"""Values by the name of their array."""

Targets = Mapping[str, zarr.Array[Any]]
"""The arrays of a run on disk, by name."""


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
            compressors=ZstdCodec(level=1),
            dimension_names=spec.dimensions,
            attributes={"description": spec.description},
            config={"write_empty_chunks": False},
        )
    return group


def open_arrays(storage: Storage, record: RunRecord, read_only: bool = True) -> Targets:
    """All arrays of a run, their metadata read.

    Raises VlmlakeError if its folder or an array is missing or its metadata damaged.
    """
    run = record.name
    store = storage.zarr_store(paths.arrays(run), read_only=read_only)
    try:
        group = zarr.open_group(store, mode="r" if read_only else "r+", zarr_format=3, use_consolidated=False)
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
        target[...] = _stored(spec, arrays[spec.name], target.dtype, "the whole run")[0]


def write_batch(storage: Storage, record: RunRecord, targets: Targets, number: int, arrays: Arrays) -> dict[str, float]:
    """Write one batch's shards; returns the largest |x| of every array of activations.

    targets: the run's arrays, open for writing. arrays: every array of the record's batch_specs by name, with at most
    the planned length on each axis: a batch brings its own longest length, and what lies beyond stays unwritten. A
    shard that an interrupted writer left is replaced whole.

    Raises VlmlakeError if a value does not fit the stored dtype, before anything of that array is written.
    """
    largest = {}
    for spec, shard in zip(record.batch_specs, shard_files(record, number), strict=True):
        values, target = arrays[spec.name], targets[spec.name]
        start = number * record.extents.shard(spec.dimensions[0])
        region = (slice(start, start + values.shape[0]), *(slice(0, length) for length in values.shape[1:]))
        planned = tuple(record.extents.shard(dimension) for dimension in spec.dimensions)
        if values.ndim != len(planned) or any(
            given > there for given, there in zip(values.shape, planned, strict=True)
        ):
            raise ValueError(f"{spec.name} of batch {number} has shape {values.shape}, the plan has {planned}")
        stored, largest[spec.name] = _stored(spec, values, target.dtype, f"batch {number}")
        if storage.exists(shard):
            whole = np.full(planned, spec.fill_value, target.dtype)
            whole[tuple(slice(0, length) for length in values.shape)] = stored
            target[start : start + planned[0]] = whole
        else:
            target[region] = stored
    return {spec.name: largest[spec.name] for spec in record.batch_specs if spec.kind == "activation"}


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


def _stored(spec: ArraySpec, values: np.ndarray, dtype: np.dtype, where: str) -> tuple[np.ndarray, float]:
    """The values in the dtype of the store, and the largest |x| among them."""
    largest = largest_magnitude(values)
    if dtype == np.float16 and largest > FLOAT16_LARGEST:
        raise VlmlakeError(
            f"{spec.name} of {where} holds a value of size {largest:.6g}, float16 ends at {FLOAT16_LARGEST:g}: "
            "run again with --dtype float32"
        )
    return values.astype(dtype, copy=False), largest


def largest_magnitude(values: np.ndarray) -> float:
    """Largest |x| of an array, NaN left out; 0 for one of integers or of NaN alone.

    float16 is compared as bits, in place of arithmetic that processors lack: without the sign they sort like the
    numbers, infinity above all numbers and NaN above infinity.
    """
    if values.dtype.kind != "f":
        return 0.0
    if values.dtype == np.float16:
        magnitude = values.view(np.uint16) & np.uint16(0x7FFF)
        magnitude[magnitude > FLOAT16_INFINITY] = 0
        return float(magnitude.max(initial=0).astype(np.uint16).view(np.float16))
    return float(np.nanmax(np.abs(values), initial=0.0))
