"""2: the attention metrics of all stored rows, beside reading the rows and adding them up."""

from __future__ import annotations

import numpy as np
import xarray as xr

from analyses.findings import numbers_of
from analyses.process import Clock, Numbers, Subject
from analyses.table import Row, show
from vlmlake.analysis.attention import attention
from vlmlake.store_schema.schema import EMBED

TIMES_READING, MOST_MEMORY = 3.0, 4e9
"""The targets."""


def read(data: xr.Dataset, clock: Clock) -> Numbers:
    """The sum of all weights, in float32, by the chunks and the scheduler that ours has."""
    rows = data["readout_attention"].sel(layer=data["layer"].values[data["layer"].values != EMBED])
    with clock.running():
        total = rows.sum().compute()
    return {"total": total.values, "size": np.array(rows.size)}


def ours(data: xr.Dataset, clock: Clock) -> Numbers:
    """All metrics at prompt_last, with their table."""
    with clock.running():
        result = attention(data)
    return numbers_of(result)


def rows(subject: Subject) -> tuple[list[Row], list[str]]:
    """The table's rows, and what must be known about them."""
    before = subject.measured("attention.read")
    found = subject.measured("attention.ours")
    reading = min(before, subject.measured("attention.read"), key=lambda one: one.seconds)
    ratio = found.seconds / reading.seconds
    fast, memory = f"<= {TIMES_READING:g} x", f"<= {MOST_MEMORY / 1e9:g} GB"
    return [
        show("2a", "attention metrics", found, f"{ratio:.2f} x reading", fast, ratio <= TIMES_READING),
        Row("2b", "attention metrics: memory", "", f"{found.peak / 1e9:.2f}", "", memory, found.peak <= MOST_MEMORY),
        show("2c", "reading them all, float32, summed", reading),
    ], [
        f"2: {int(reading.numbers['size']) / 1e9:.2f} billion weights. Each way in a process of its own, with Dask's "
        "threads, as many as there are cores. Reading: the better of two, before and after ours.",
    ]
