"""The two pictures that most results draw: a curve over the layers, and points by split."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from vlmlake.analysis.layer_order import block_numbers
from vlmlake.errors import VlmlakeError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BESIDE = 0.12
"""Distance of the points of two metrics in one split, in splits."""


def new_axes(ax: Axes | None) -> Axes:
    """The axes given, else new ones. Raises VlmlakeError where matplotlib is not installed."""
    if ax is not None:
        return ax
    try:
        from matplotlib import pyplot
    except ModuleNotFoundError as error:
        raise VlmlakeError("matplotlib is missing: plots need the extra `plot`, as in pip install '.[plot]'") from error
    axes: Axes = pyplot.subplots(layout="constrained")[1]
    return axes


def draw_over_layers(axes: Axes, rows: pl.DataFrame, label: str, style: str = "-", band: bool = True) -> None:
    """A line over the blocks, whose numbers are the ticks, with the band of its intervals.

    rows: of a Result's table, one per layer; those without a value, and means over layers, must not be among them.
    """
    blocks = block_numbers(rows["layer"].to_list())
    rows = rows[np.argsort(blocks).tolist()]
    blocks = np.sort(blocks)
    (line,) = axes.plot(blocks, rows["value"].to_numpy(), style, label=label)
    if band:
        axes.fill_between(blocks, rows["low"].to_numpy(), rows["high"].to_numpy(), color=line.get_color(), alpha=0.2)
    axes.locator_params(axis="x", integer=True)
    axes.set_xlabel("block (-1: embeddings)" if len(blocks) and blocks[0] < 0 else axes.get_xlabel() or "block")


def draw_by_split(axes: Axes, parts: dict[str, pl.DataFrame]) -> None:
    """A point with its interval for every split, those of the parts side by side. parts: by label, rows of a table."""
    splits = list(dict.fromkeys(split for rows in parts.values() for split in rows["split"]))
    for number, (label, rows) in enumerate(parts.items()):
        told = rows.drop_nulls("value")
        places = [splits.index(split) + BESIDE * (number - (len(parts) - 1) / 2) for split in told["split"]]
        errors = [told["value"] - told["low"], told["high"] - told["value"]]
        axes.errorbar(places, told["value"].to_list(), yerr=errors, fmt="o", capsize=4, label=label)
    axes.set_xticks(range(len(splits)), splits)
