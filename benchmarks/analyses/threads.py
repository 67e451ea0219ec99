"""How many threads the linear algebra of a plain way gets: as many as it is fastest with."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from threadpoolctl import threadpool_limits

TRIES = 3


def best_blas_threads(work: Callable[[], object]) -> int:
    """One, or all cores', whichever are faster for a sample of the work; each tried, after one not counted."""
    work()
    seconds: dict[int, float] = {}
    for number in (1, os.cpu_count() or 1) * TRIES:
        with threadpool_limits(number):
            start = time.perf_counter()
            work()
            seconds[number] = min(seconds.get(number, float("inf")), time.perf_counter() - start)
    return min(seconds, key=lambda number: seconds[number])


def told(number: int) -> str:
    """In words."""
    return f"{number} BLAS thread{'s' * (number > 1)}"
