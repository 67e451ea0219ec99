"""What analyses found in a run, as it is kept in the lake: written once, found again while nothing has changed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import xarray as xr

from vlmlake.analysis.contract import Analysis
from vlmlake.analysis.layer_order import in_order
from vlmlake.analysis.result import Result
from vlmlake.errors import DamagedError
from vlmlake.store_schema import paths, tables
from vlmlake.store_schema.storage import Storage

ANY_RULE = "any"
INPUTS = "vlmlake-inputs"
"""Key of the digest, in the footer of each file of findings, of everything that decided its content."""
BESIDE = "vlmlake-beside"
"""Key, in the same footer, of the names of the tables that were written with it."""


@dataclass(frozen=True)
class Inputs:
    """Digests of what decides findings. examples: what decides the numbers of each example, which may hang on less."""

    findings: str
    examples: str

    def of(self, table: str) -> str:
        """Of one of tables.FINDINGS."""
        return self.examples if table == "metrics" else self.findings


@dataclass(frozen=True)
class Shelf:
    """Where the findings of one analysis of one run lie, under one rule and one condition.

    labelled: whether the numbers of each example belong to the rule. where: an SQL condition on examples, or none.
    """

    storage: Storage
    analysis: str
    run: str
    rule: str
    where: str | None
    labelled: bool

    def beside(self, analysis: Analysis) -> Shelf:
        """That of another analysis under the same rule and condition."""
        return replace(self, analysis=analysis.name, labelled=analysis.labelled)

    def path(self, table: str) -> str:
        """Of one of tables.FINDINGS."""
        rule = self.rule if self.labelled or table != "metrics" else ANY_RULE
        condition = f"-{hashlib.sha256(self.where.encode()).hexdigest()[:8]}" if self.where else ""
        return paths.finding(table, self.analysis, self.run, f"{rule}{condition}")

    def kept(self, inputs: Inputs) -> pl.DataFrame | None:
        """The rows of tables.RESULTS that are there, if these inputs decided them and all that was written with them.

        What is damaged is as good as not there: it can be computed again.
        """
        path = self.path("results")
        try:
            rows, told = tables.decode(self.storage.read(path), tables.RESULTS, path)
            decided = {"results": told, **{name: self._footer(name) for name in told.get(BESIDE, "").split()}}
        except (FileNotFoundError, DamagedError):
            return None
        ours = all(footer.get(INPUTS) == inputs.of(table) for table, footer in decided.items())
        return tables.frame(rows) if ours else None

    def metrics(self) -> xr.Dataset:
        """The numbers of each example that are there, as Result.examples.

        Raises DamagedError if they are not as they were written.
        """
        path = self.path("metrics")
        there = [path] if self.storage.exists(path) else []
        try:
            return examples_of(tables.frame(tables.read(self.storage, there, tables.METRICS)))
        except DamagedError as error:
            raise DamagedError(f"{error}; delete it and analyze again") from error

    def _footer(self, table: str) -> dict[str, str]:
        return tables.footer(self.storage, self.path(table))

    def write(
        self, found: Result, passport: Mapping[str, str | None], notes: Sequence[str | None], inputs: Inputs
    ) -> None:
        """Put the findings in place of those that are there; the results last. passport: columns of all results."""
        rows = {
            "metrics": metric_rows(found.examples).with_columns(
                run=pl.lit(self.run), analysis=pl.lit(self.analysis), rule=pl.lit(self.rule if self.labelled else None)
            ),
            "labels": found.labels,
            "rankings": found.rankings,
        }
        beside = [table for table, frame in rows.items() if frame.height or self.storage.exists(self.path(table))]
        for table in beside:
            self.storage.write(self.path(table), self._encoded(table, rows[table], {INPUTS: inputs.of(table)}))
        note = pl.concat_str(
            pl.col("note"), *(pl.lit(note) for note in notes if note), separator="; ", ignore_nulls=True
        )
        results = found.table.with_columns(
            analysis=pl.lit(self.analysis),
            note=pl.when(note != "").then(note),
            **{name: pl.lit(value, pl.String) for name, value in passport.items()},
        )
        told = {INPUTS: inputs.of("results"), BESIDE: " ".join(beside)}
        self.storage.write(self.path("results"), self._encoded("results", results, told))

    def _encoded(self, table: str, frame: pl.DataFrame, told: Mapping[str, str]) -> bytes:
        schema = tables.FINDINGS[table]
        if "condition" in schema.names:
            frame = frame.with_columns(condition=pl.lit(self.where, pl.String))
        arrow = frame.select(schema.names).to_arrow().cast(schema)
        return tables.encode(arrow, told)


def metric_rows(examples: xr.Dataset) -> pl.DataFrame:
    """Long form of per-example numbers: example, metric, position, layer, value; a NaN has no row."""
    empty = tables.frame(tables.METRICS.empty_table()).select("example", "metric", "position", "layer", "value")
    parts = []
    for name, values in examples.data_vars.items():
        places = np.nonzero(np.isfinite(values.values))
        columns = {
            str(dimension): pl.Series(values[dimension].values.astype(str).tolist(), dtype=pl.String).gather(place)
            for dimension, place in zip(values.dims, places, strict=True)
        }
        numbers = pl.DataFrame({**columns, "value": values.values[places].astype(np.float64)})
        absent = [pl.lit(None, pl.String).alias(label) for label in ("position", "layer") if label not in columns]
        parts.append(numbers.with_columns(*absent, metric=pl.lit(str(name))).select(empty.columns))
    return pl.concat([empty, *parts])


def examples_of(rows: pl.DataFrame) -> xr.Dataset:
    """The inverse of metric_rows, out of rows of tables.METRICS: one variable per metric."""
    variables = []
    labels = {name: rows[name].drop_nulls().unique(maintain_order=True) for name in ("example", "position", "layer")}
    numbered = rows.select("metric", "value", *(_places(rows[name], known) for name, known in labels.items()))
    for (metric,), part in numbered.group_by("metric", maintain_order=True):
        dimensions = ["example", *(name for name in ("position", "layer") if part[name].null_count() < part.height)]
        values = np.full([len(labels[name]) for name in dimensions], np.nan)
        values[tuple(part[name].to_numpy() for name in dimensions)] = part["value"].to_numpy()
        array = xr.DataArray(values, {name: labels[name].to_numpy() for name in dimensions}, dimensions)
        variables.append(xr.Dataset({metric: _without_empty(array)}))
    return together(variables)


def together(parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """Per-example numbers of several analyses side by side, layers in the model's order."""
    return in_order(xr.merge(parts, join="outer")) if parts else xr.Dataset()


def _places(column: pl.Series, labels: pl.Series) -> pl.Series:
    """For each label of the column its place among `labels`, under the column's name."""
    return column.cast(pl.Enum(labels)).to_physical()


def _without_empty(array: xr.DataArray) -> xr.DataArray:
    """Without the positions and layers at which this metric, unlike others, has no number."""
    for dimension in set(array.dims) - {"example"}:
        array = array.dropna(dimension, how="all")
    return array
