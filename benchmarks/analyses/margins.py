"""3: the margins of every example and layer, beside the bare matrix products that they need."""

from __future__ import annotations

import numpy as np
import xarray as xr
from threadpoolctl import threadpool_limits

from analyses.findings import numbers_of
from analyses.process import Clock, Numbers, Subject
from analyses.table import Row, show
from analyses.threads import best_blas_threads, told
from vlmlake.analysis.margins.margins import margins

TIMES_BARE = 3.0
"""The target."""
BLOCK = 8_192
"""Tokens of the vocabulary in one product."""


def bare(data: xr.Dataset, clock: Clock) -> Numbers:
    """Every state times every row of the unembedding, float32, all of it in memory, the products thrown away."""
    unembedding = data["unembedding"].values.T
    states = [layer.values for layer in data["readout_states"].isel(position=0).transpose("layer", "example", "hidden")]
    out = np.empty((len(states[0]), BLOCK), np.float32)
    blocks = [unembedding[:, first : first + BLOCK] for first in range(0, unembedding.shape[1], BLOCK)]

    def multiply(layer: np.ndarray, block: np.ndarray) -> None:
        np.matmul(layer, block, out=out.reshape(-1)[: len(layer) * block.shape[1]].reshape(len(layer), -1))

    threads = best_blas_threads(lambda: multiply(states[0], blocks[0]))
    with threadpool_limits(threads), clock.running():
        for layer in states:
            for block in blocks:
                multiply(layer, block)
    size = 2 * len(states) * states[0].size * unembedding.shape[1]
    return {"threads": np.array(threads), "operations": np.array(float(size))}


def ours(data: xr.Dataset, clock: Clock) -> Numbers:
    """All metrics, with their table."""
    with clock.running():
        result = margins(data)
    return numbers_of(result)


def rows(subject: Subject) -> tuple[list[Row], list[str]]:
    """The table's rows, and what must be known about them."""
    found, products = subject.measured("margins.ours"), subject.measured("margins.bare")
    ratio = found.seconds / products.seconds
    operations = float(products.numbers["operations"])
    return [
        show("3a", "margins", found, f"{ratio:.2f} x products", f"<= {TIMES_BARE:g} x", ratio <= TIMES_BARE),
        show("3b", "the bare matrix products", products, f"{operations / products.seconds / 1e9:.0f} GFLOP/s"),
    ], [
        f"3: {operations:.1e} operations. Bare: float32 in memory, {BLOCK:,} tokens at once, "
        f"{told(int(products.numbers['threads']))}, the faster; ours reads and decodes, too.",
    ]
