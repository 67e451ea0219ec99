"""Pictures of one intervention: drops over the number of neurons, by mask, or over the blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from vlmlake.analysis.causal.conditions import CONTROL, SETS
from vlmlake.analysis.layer_order import block_numbers
from vlmlake.analysis.population import ALL_SPLITS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POINTS = 100
"""In percentage points, as drops are published."""
MASKS = ("high", "low", "random", "high_minus_random", "low_minus_random")
CHANCE = "gray"


def draw(axes: Axes, rows: pl.DataFrame, controls: pl.DataFrame) -> None:
    """rows: of a result's table, of one intervention. controls: of CausalResult.controls."""
    pooled = rows.filter(pl.col("split") == ALL_SPLITS, pl.col("gold").is_null()).drop_nulls("value")
    effects = pooled.filter(pl.col("statistic").is_in(["drop", "contrast"]))
    axes.axhline(0, color=CHANCE, linewidth=0.5)
    if effects["metric"].is_in(SETS["ablate"]).any():
        _over_neurons(axes, effects, controls)
    elif effects["metric"].is_in(MASKS).any():
        _by_mask(axes, effects)
    else:
        _over_blocks(axes, pooled)
    if axes.get_legend_handles_labels()[0]:
        axes.legend()


def _over_neurons(axes: Axes, drops: pl.DataFrame, controls: pl.DataFrame) -> None:
    drops = drops.filter(pl.col("metric").is_in(SETS["ablate"])).sort("at", maintain_order=True)
    several = drops.filter(pl.col("metric") != "null")["layer"].n_unique() > 1
    for (layer,), band in drops.filter(metric=CONTROL).group_by("layer", maintain_order=True):
        label = f"controls, {layer}" if several else "controls, 95 % of them"
        axes.fill_between(band["at"], *_bounds(band), color=CHANCE, alpha=0.2, linewidth=0, label=label)
        axes.plot(band["at"], POINTS * band["value"], color=CHANCE, linestyle=":")
        own = controls.filter(layer=layer)
        axes.plot(own["k"], POINTS * own["drop"], ".", color=CHANCE, markersize=3, alpha=0.5)
    for (metric, layer), line in drops.filter(pl.col("metric") != CONTROL).group_by(
        "metric", "layer", maintain_order=True
    ):
        named = metric == "null" or several
        axes.errorbar(
            line["at"],
            POINTS * line["value"],
            yerr=_errors(line),
            fmt="o-",
            capsize=3,
            label=f"{metric}, {layer}" if named else str(metric),
        )
    axes.set_xscale("log")
    ticks = sorted(set(drops["at"]))
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("neurons")
    axes.set_ylabel("drop of accuracy, percentage points")


def _by_mask(axes: Axes, effects: pl.DataFrame) -> None:
    effects = effects.filter(pl.col("metric").is_in(MASKS))
    shares = sorted(set(effects["at"]))
    for number, share in enumerate(shares):
        part = effects.filter(at=share)
        beside = 0.15 * (number - (len(shares) - 1) / 2)
        places = [MASKS.index(metric) + beside for metric in part["metric"]]
        label = f"{share:.0%} of the patches"
        axes.errorbar(places, POINTS * part["value"], yerr=_errors(part), fmt="o", capsize=4, label=label)
    shown = [place for place, metric in enumerate(MASKS) if metric in set(effects["metric"])]
    axes.set_xticks(shown, [MASKS[place].replace("_minus_", " -\n") for place in shown])
    axes.set_ylabel("drop of accuracy, percentage points")


def _over_blocks(axes: Axes, rows: pl.DataFrame) -> None:
    """Of patches the share that follows the donor, of heads and blocks the drop."""
    follows = rows.filter(statistic="follows_donor")
    shown = rows.filter(statistic="drop") if follows.is_empty() else follows
    metrics = shown["metric"].unique(maintain_order=True).to_list()
    for number, metric in enumerate(metrics):
        part = shown.filter(metric=metric)
        part = part[np.argsort(block_numbers(part["layer"].to_list()), kind="stable").tolist()]
        blocks = block_numbers(part["layer"].to_list()) + 0.1 * (number - (len(metrics) - 1) / 2)
        style = "o" if metric == "head" else "o-"
        errors = None if metric == "head" else _errors(part)
        axes.errorbar(blocks, POINTS * part["value"], yerr=errors, fmt=style, capsize=3, label=_named(metric))
    axes.locator_params(axis="x", integer=True)
    axes.set_xlabel("block")
    axes.set_ylabel("drop of accuracy, percentage points" if follows.is_empty() else "answers that follow the donor, %")


def _named(metric: str) -> str:
    return {"head": "one head", "into_right": "into right ones", "into_wrong": "into wrong ones"}.get(metric, metric)


def _bounds(rows: pl.DataFrame) -> tuple[pl.Series, pl.Series]:
    return POINTS * rows["low"], POINTS * rows["high"]


def _errors(rows: pl.DataFrame) -> Sequence[pl.Series]:
    low, high = _bounds(rows)
    return [POINTS * rows["value"] - low, high - POINTS * rows["value"]]
