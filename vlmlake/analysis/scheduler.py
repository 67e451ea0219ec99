"""Where tasks run: threads of this process, or the workers of a Dask cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vlmlake.errors import VlmlakeError

SECONDS_TO_ANSWER = 10


@contextmanager
def scheduler(address: str | None) -> Iterator[None]:
    """Send the tasks inside to a cluster. address: of its scheduler, as in tcp://host:8786; none for threads.

    Raises VlmlakeError if nothing answers there, or if the extra `cluster` is not installed.
    """
    if address is None:
        yield
        return
    try:
        from distributed import Client
    except ModuleNotFoundError as error:
        raise VlmlakeError(
            "distributed is missing: --scheduler needs the extra `cluster`, as in pip install '.[cluster]'"
        ) from error
    try:
        client = Client(address, timeout=SECONDS_TO_ANSWER)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, TimeoutError) as error:
        raise VlmlakeError(
            f"no Dask scheduler answers at {address}: expected an address like tcp://host:8786 ({type(error).__name__})"
        ) from error
    with client:
        yield
