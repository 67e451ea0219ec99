"""What the verbs show on a terminal: tables, sizes and the progress of a pass."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
import rich.progress
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from vlmlake.store_schema.lake import Lake

if TYPE_CHECKING:
    from vlmlake.ingest.job import Job

ROWS_SHOWN = 200
PIPED_WIDTH = 10_000
"""Columns of a table that is not shown on a terminal, so that a pipe gets one line per row."""


def terminal() -> Console:
    """The console of standard output."""
    width = None if sys.stdout.isatty() else PIPED_WIDTH
    return Console(width=width, markup=False, emoji=False, highlight=False, soft_wrap=True)


def extract_with_progress(console: Console, job: Job) -> str:
    """Run `ingest.extract` under a progress bar, which appears once there is progress; returns the run's name."""
    from vlmlake.ingest.extract import Progress, extract

    bar = rich.progress.Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.1f} examples/s, {task.fields[written]}"),
        TimeRemainingColumn(),
        console=console,
    )
    begun: list[tuple[float, int]] = []

    def report(now: Progress) -> None:
        if not begun:
            begun.append((bar.get_time(), now.done))
            bar.add_task(now.run, total=now.total, completed=now.done, rate=0.0, written=size(0))
            bar.start()
        (task,) = bar.task_ids
        bar.update(task, completed=now.done, rate=rate(now.done), written=size(now.written))

    def rate(done: int) -> float:
        seconds = bar.get_time() - begun[0][0]
        return (done - begun[0][1]) / seconds if seconds > 0 else 0.0

    try:
        outcome = extract(job, report)
    finally:
        if begun:
            bar.stop()
    if outcome.computed:
        seconds = bar.get_time() - begun[0][0]
        console.print(
            f"{outcome.run}: {outcome.computed} of {outcome.total} examples computed in {seconds:.1f} s "
            f"({rate(outcome.total):.1f} examples/s), {size(outcome.written)} written",
        )
    else:
        console.print(f"{outcome.run}: all {outcome.total} examples are there, nothing to do")
    return outcome.run


def print_info(console: Console, lake: Lake) -> None:
    """Runs, their progress, and the arrays of each with sizes on disk."""
    console.print(f"lake {lake.url}: {len(lake)} run{'' if len(lake) == 1 else 's'}")
    for run in (lake.run(name) for name in lake.runs):
        batches, done = run.record.extents.batches, run.batches_done
        arrays = run.dataset(raw=True)
        console.print(
            f"\n{run.name}: {arrays.sizes['example']} of {run.record.examples} examples "
            f"in {done} of {batches} batches, {run.record.stored_dtype}",
        )
        sizes = run.array_bytes()
        table = Table("array", "dimensions", "shape", "dtype", "on disk", box=None)
        for name, stored in sizes.items():
            array = arrays[name]
            shape = " x ".join(str(length) for length in array.shape)
            table.add_row(name, ", ".join(str(d) for d in array.dims), shape, str(array.dtype), size(stored))
        table.add_row("all", "", "", "", size(sum(sizes.values())))
        console.print(table)


def print_results(console: Console, results: pl.DataFrame) -> None:
    """Rows of tables.RESULTS, a table per run and analysis: what all its rows share stands above it, notes below."""
    described = ["rule", "metric", "split", "layer", "position", "n", "n_images"]
    for (run, analysis), rows in results.group_by("run", "analysis", maintain_order=True):
        shared = [column for column in described if rows[column].n_unique() == 1]
        facts = [f"{column} {rows[column][0]}" for column in shared if rows[column][0] is not None]
        console.print(f"\n{run}: {', '.join([str(analysis), *facts])}")
        shown = ["metric", "split", "layer", "position", "value", "low", "high", "n", "n_images"]
        print_table(console, rows.select(column for column in shown if column not in shared).to_arrow())
        for (note,), noted in rows.drop_nulls("note").group_by("note", maintain_order=True):
            places = [" ".join(filter(None, row)) for row in noted.select("metric", "layer", "position").iter_rows()]
            more = f" and {len(places) - 2} more" if len(places) > 2 else ""
            console.print(f"{', '.join(places[:2])}{more}: {note}")


def print_table(console: Console, answer: pa.Table) -> None:
    """An Arrow table, aligned; floats with four digits, at most ROWS_SHOWN rows."""
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


def size(count: float) -> str:
    """Bytes in words: 1.5 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = _number(value) if isinstance(value, float) else str(value)
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _number(value: float) -> str:
    """Four decimals where they tell something, else powers of ten."""
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e6 else f"{value:.3e}"
