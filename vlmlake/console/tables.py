"""Tables on a terminal."""

from __future__ import annotations

import sys
from typing import Any

import polars as pl
import pyarrow as pa
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vlmlake.console.printable import printable
from vlmlake.store_schema.lake import Lake
from vlmlake.store_schema.sizes import size_in_words

ROWS_SHOWN = 200
VALUES_SHOWN = 4
"""Of a list; of a longer one two, and its length."""
NOTES_SHOWN = 10
"""Of one analysis of one run."""
PIPED_WIDTH = 10_000
"""Columns of a table that is not shown on a terminal, so that a pipe gets one line per row."""


def terminal() -> Console:
    """The console of standard output."""
    width = None if sys.stdout.isatty() else PIPED_WIDTH
    return Console(width=width, markup=False, emoji=False, highlight=False, soft_wrap=True)


def errors() -> Console:
    """The console of standard error."""
    width = None if sys.stderr.isatty() else PIPED_WIDTH
    return Console(stderr=True, width=width, markup=False, emoji=False, highlight=False, soft_wrap=True)


def print_info(console: Console, lake: Lake) -> None:
    """Runs, their progress, and the arrays of each with sizes on disk."""
    console.print(f"lake {printable(lake.url)}: {len(lake)} run{'' if len(lake) == 1 else 's'}")
    for run in (lake.run(name) for name in lake.runs):
        batches, done = run.record.extents.batches, run.batches_done
        arrays = run.dataset(raw=True)
        console.print(
            f"\n{printable(run.name)}: {arrays.sizes['example']} of {run.record.examples} examples "
            f"in {done} of {batches} batches, {run.record.stored_dtype}",
        )
        sizes = run.array_bytes()
        largest = dict(run.largest().group_by("array").agg(pl.col("largest").max()).iter_rows())
        table = Table("array", "dimensions", "shape", "dtype", "on disk", "largest |x|", box=None)
        for name, stored in sizes.items():
            array = arrays[name]
            shape = " x ".join(str(length) for length in array.shape)
            top = f"{largest[name]:.4g}" if name in largest else ""
            dimensions = ", ".join(str(dimension) for dimension in array.dims)
            table.add_row(name, dimensions, shape, str(array.dtype), size_in_words(stored), top)
        table.add_row("all", "", "", "", size_in_words(sum(sizes.values())))
        console.print(table)


def print_results(console: Console, results: pl.DataFrame) -> None:
    """Rows of tables.RESULTS, a table per run and analysis: what all its rows share stands above it; notes below, also
    of rows without a value.
    """
    shown = ["metric", "statistic", "split", "gold", "position", "layer", "at", "n", "n_images"]
    described = ["rule", "condition", "settings", "intervention", *shown]
    for (run, analysis), rows in results.group_by("run", "analysis", maintain_order=True):
        shared = [column for column in described if rows[column].n_unique() == 1]
        facts = [f"{column} {rows[column][0]}" for column in shared if rows[column][0] is not None]
        console.print("\n" + printable(f"{run}: {', '.join([str(analysis), *facts])}"))
        told = rows.filter(pl.col("value").is_not_null())
        if told.height:
            columns = ["intervention", *shown[:-2], "value", "low", "high", *shown[-2:]]
            print_table(console, told.select(column for column in columns if column not in shared).to_arrow())
        notes = list(rows.drop_nulls("note").group_by("note", maintain_order=True))
        for (note,), noted in notes[:NOTES_SHOWN]:
            places = [" ".join(filter(None, row)) for row in noted.select("metric", "layer", "position").iter_rows()]
            more = f" and {len(places) - 2} more" if len(places) > 2 else ""
            console.print(printable(f"{', '.join(places[:2])}{more}: {note}"))
        if len(notes) > NOTES_SHOWN:
            console.print(f"{len(notes) - NOTES_SHOWN} more notes in the table `results`")


def print_table(console: Console, answer: pa.Table) -> None:
    """An Arrow table, aligned; floats with four digits, at most ROWS_SHOWN rows, of a vector its first values."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    for field in answer.schema:
        numeric = pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
        table.add_column(field.name, justify="right" if numeric else "left", overflow="fold")
    columns = [column.slice(0, ROWS_SHOWN).to_pylist() for column in answer.columns]
    for row in zip(*columns, strict=True):
        table.add_row(*(Text(_cell(value)) for value in row))
    console.print(table)
    if answer.num_rows > ROWS_SHOWN:
        console.print(f"{answer.num_rows - ROWS_SHOWN} more rows; add a LIMIT or an aggregate")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return _listed(value)
    return printable(_number(value) if isinstance(value, float) else str(value))


def _listed(values: list[Any]) -> str:
    """`[0.12, -0.03, ... 64]`: the first values of many, and how many there are."""
    if len(values) <= VALUES_SHOWN:
        return f"[{', '.join(map(_cell, values))}]"
    return f"[{', '.join(map(_short, values[:2]))}, ... {len(values)}]"


def _short(value: Any) -> str:
    if not isinstance(value, float):
        return _cell(value)
    return f"{value:.2f}" if value == 0 or 0.01 <= abs(value) < 1e3 else f"{value:.1e}"


def _number(value: float) -> str:
    """Four decimals where they tell something, else powers of ten."""
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e6 else f"{value:.3e}"
