"""Tasks over blocks of stored arrays, run by the Dask scheduler in force: threads here, or a cluster's workers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr
from dask.callbacks import Callback
from dask.delayed import Delayed
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from vlmlake.errors import VlmlakeError

Watcher = Callable[[int, int], None]
"""Is told how many of how many tasks are done."""

_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


@contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Tell a watcher of the tasks that run inside."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def computed(tasks: Sequence[Delayed]) -> list[Any]:
    """What the tasks return, in their order. What several of them share is computed once.

    Raises VlmlakeError if a cluster loses its workers or ends.
    """
    watcher, client = _watcher.get(), _client()
    if client is None:
        counting: Callback = _Counting(watcher) if watcher else Callback()  # type: ignore[no-untyped-call]
        # Linear algebra's own threads would wait for one another beside Dask's: a task gets one, unless it is alone.
        with threadpool_limits(1 if len(tasks) > 1 else None, "blas"), counting:
            return list(dask.compute(*tasks))  # type: ignore[attr-defined,no-untyped-call]
    from distributed import CancelledError, KilledWorker, as_completed
    from distributed.comm.core import CommClosedError

    try:
        futures = client.compute(list(tasks))
        for done, _ in enumerate(as_completed(futures), 1):  # type: ignore[no-untyped-call]
            if watcher:
                watcher(done, len(futures))
        return list(client.gather(futures))
    except (CancelledError, KilledWorker, CommClosedError) as error:
        raise VlmlakeError(
            f"the Dask cluster ended or lost its workers ({type(error).__name__}): start one, with more memory if that "
            "is what they lacked, and run again; what was found is kept"
        ) from error


def example_pieces(array: xr.DataArray) -> list[tuple[slice, xr.DataArray]]:
    """Pieces of an array along `example`, each with its place on that axis, cut as the store lays them out."""
    if not isinstance(array.data, da.Array):
        array = array.chunk({"example": 256})
    sizes = dict(zip(array.dims, array.data.chunks, strict=True))["example"]
    ends = np.cumsum(sizes)
    places = [slice(int(end - size), int(end)) for end, size in zip(ends, sizes, strict=True)]
    return [(place, array.isel(example=place)) for place in places]


class _Counting(Callback):
    def __init__(self, watcher: Watcher) -> None:
        super().__init__(posttask=self._count)  # type: ignore[no-untyped-call]
        self.watcher = watcher

    def _count(self, key: object, result: object, dsk: object, state: Any, worker: object) -> None:
        self.watcher(
            len(state["finished"]), sum(len(state[part]) for part in ("ready", "waiting", "running", "finished"))
        )


def _client() -> Any:
    """The cluster's client that Dask works with now, if there is one."""
    if "distributed" not in sys.modules:
        return None
    from distributed import default_client

    try:
        return default_client()  # type: ignore[no-untyped-call]
    except ValueError:
        return None
