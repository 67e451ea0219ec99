"""What every analysis returns: a table of statistics, what it found of each example, and how to look at it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import xarray as xr

from vlmlake.analysis.layer_order import in_order
from vlmlake.analysis.statistics.multiple import holm
from vlmlake.errors import VlmlakeError
from vlmlake.store_schema import tables

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN_COLUMNS = ("intervention", "split", "gold", "position", "layer", "head", "at")
"""What tells the rows of one metric and statistic apart: the dimensions of `Result.to_xarray`."""

BOUNDS = ("value", "low", "high")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Result(ABC):
    """The findings of one analysis in one run; each analysis has a subclass that knows how to plot them.

    table: rows of tables.RESULTS, without `analysis`, `condition`, `settings`, `content` and `code`, which are
    `analyze`'s to say. examples: a number for every example that was asked about: variables over `example`, and
    `position` or `layer` where it has them, float64, NaN where there is none. rankings, labels: rows of
    tables.RANKINGS and tables.LABELS, without `condition`.
    """

    table: pl.DataFrame
    examples: xr.Dataset = field(default_factory=xr.Dataset)
    rankings: pl.DataFrame = field(default_factory=lambda: tables.frame(tables.RANKINGS.empty_table()))
    labels: pl.DataFrame = field(default_factory=lambda: tables.frame(tables.LABELS.empty_table()))

    def to_xarray(self) -> xr.Dataset:
        """Table and per-example numbers as one Dataset.

        Of each metric's statistic a variable `<metric>_<statistic>` over `bound` (value, low, high) and those of
        SHOWN_COLUMNS that tell its rows apart, and `<metric>_<statistic>_of_heads` where single heads have rows too;
        then the variables of `examples`, under their own names. Layers are in the model's order.
        """
        statistics = {}
        of_heads = pl.col("head").is_not_null().alias("of_heads")
        for (metric, statistic, single), rows in self.table.group_by(
            "metric", "statistic", of_heads, maintain_order=True
        ):
            statistics[f"{metric}_{statistic}{'_of_heads' if single else ''}"] = _labelled(rows)
        shared = set(statistics) & set(self.examples.data_vars)
        assert not shared, shared
        both = xr.merge([statistics, self.examples], join="outer", compat="no_conflicts", combine_attrs="drop")
        return in_order(both)

    @abstractmethod
    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the main finding with its 95 % interval; on new axes unless some are given (extra `plot`)."""

    def rows(self, **wanted: Any) -> pl.DataFrame:
        """The rows of the table that have these values in these columns."""
        return self.table.filter(*(pl.col(name) == value for name, value in wanted.items()))

    def row(self, **wanted: Any) -> dict[str, Any]:
        """The one row that fits. Raises VlmlakeError if none or several do."""
        found = self.rows(**wanted)
        if found.height != 1:
            raise VlmlakeError(f"{found.height} rows fit {wanted}, expected one")
        return found.row(0, named=True)


def result_table(rows: Sequence[Row]) -> pl.DataFrame:
    """Rows of Population.row as a table, with the p-values of each intervention, split and gold corrected together
    by Holm's method.

    Those of single heads are a family of their own.

    The columns of tables.RESULTS but `analysis`, `condition`, `settings`, `content` and `code`.
    """
    empty = tables.frame(tables.RESULTS.empty_table()).drop(
        "analysis", "condition", "settings", "content", "code", "p_holm"
    )
    frame = pl.DataFrame(list(rows), schema=empty.schema, strict=False)
    corrected = np.full(frame.height, np.nan)
    told = frame["p_value"].is_not_null().to_numpy()
    for _, together in frame.with_row_index("place").group_by(
        "intervention", "split", "gold", pl.col("head").is_null()
    ):
        family = np.zeros(frame.height, bool)
        family[together["place"].to_numpy()] = True
        family &= told
        corrected[family] = holm(frame["p_value"].to_numpy()[family])
    return frame.with_columns(pl.Series("p_holm", corrected).fill_nan(None))


def _labelled(rows: pl.DataFrame) -> xr.DataArray:
    """Values and bounds of rows over the columns that tell them apart; a label that a row lacks is `` or -1."""
    dimensions = [name for name in SHOWN_COLUMNS if rows[name].null_count() < rows.height]
    columns = [rows[name].fill_null("" if rows[name].dtype == pl.String else -1) for name in dimensions]
    labels = [column.unique(maintain_order=True) for column in columns]
    places = tuple(np.array([*map(list(label).index, column)]) for label, column in zip(labels, columns, strict=True))
    values = np.full((len(BOUNDS), *map(len, labels)), np.nan)
    for bound, name in enumerate(BOUNDS):
        values[bound][places] = rows[name].to_numpy()
    coordinates = dict(zip(dimensions, (label.to_numpy() for label in labels), strict=True))
    return xr.DataArray(values, {"bound": list(BOUNDS), **coordinates}, ("bound", *dimensions))
