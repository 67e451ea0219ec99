"""What a GPU does during a pass, as CUDA's own tracing tells it through torch.profiler."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

COPYING = ("Memcpy", "Memset")


@dataclass(frozen=True)
class Use:
    """idle: share of the time between the first kernel's start and the last one's end in which no kernel ran, copies
    not counted as kernels; none where the tracing saw no kernel (containers may forbid it). peak: bytes allocated by
    torch, the model among them.
    """

    idle: float | None
    peak: int


def use_during(run: Callable[[], object]) -> Use:
    """Tracing slows the host a little, so that the true idle share is rather smaller."""
    torch.cuda.reset_peak_memory_stats()
    with profile(activities=[ProfilerActivity.CUDA]) as traced:
        run()
        torch.cuda.synchronize()
    kernels = [
        (event.time_range.start, event.time_range.end)
        for event in traced.events() or ()
        if event.device_type == DeviceType.CUDA and not event.name.startswith(COPYING)
    ]
    return Use(idle_share(kernels) if kernels else None, torch.cuda.max_memory_allocated())


def idle_share(busy: Iterable[tuple[float, float]]) -> float:
    """What the union of intervals leaves free between the first start and the last end.

    >>> idle_share([(0, 4), (2, 6), (8, 16)])
    0.125
    """
    ordered = sorted(busy)
    first = reached = ordered[0][0]
    covered = 0.0
    for start, end in ordered:
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return 1 - covered / (reached - first)
