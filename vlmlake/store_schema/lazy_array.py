"""A stored array as a Dask array: how much one task reads."""

from __future__ import annotations

from math import prod

import dask.array as da
import numpy as np

from vlmlake.store_schema.schema import BATCH_DIMENSIONS
from vlmlake.store_schema.stored_array import StoredArray

CUT = ("layer", "position")
"""Axes of which a task reads one element: most questions concern some of them."""

TASK_BYTES = 8 * 1024 * 1024
"""A task reads whole batches until it has about as much, so that small arrays come in few tasks and, from an object
store, in many requests at once."""


def lazy_array(stored: StoredArray) -> da.Array:
    """Tasks end where batches do; what is selected of a task later, by slices, is all that it fetches."""
    chunks = tuple(
        (1,) * length if dimension in CUT else (length,)
        for dimension, length in zip(stored.spec.dimensions, stored.shape, strict=True)
    )
    if stored.spec.dimensions[0] in BATCH_DIMENSIONS:
        chunks = (_groups(stored), *chunks[1:])
    lazy: da.Array = da.from_array(  # type: ignore[no-untyped-call]
        stored, chunks=chunks, name=False, asarray=True, meta=np.empty((0,) * stored.ndim, stored.dtype)
    )
    return lazy


def _groups(stored: StoredArray) -> tuple[int, ...]:
    """How many rows each task takes: those of as many neighbouring batches as fit into TASK_BYTES."""
    assert stored.rows is not None
    if not len(stored.rows):
        return (0,)
    dimensions, shape = stored.spec.dimensions, stored.shape
    row = prod(length for dimension, length in zip(dimensions[1:], shape[1:], strict=True) if dimension not in CUT)
    batch_rows = stored.record.extents.shard(dimensions[0])
    batches = max(1, TASK_BYTES // (row * stored.dtype.itemsize * batch_rows))
    groups = stored.rows // (batch_rows * batches)
    _, first, counts = np.unique(groups, return_index=True, return_counts=True)
    return tuple(int(count) for count in counts[np.argsort(first)])
