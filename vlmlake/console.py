"""What the verbs show on a terminal: tables, sizes and the progress of a pass."""

from __future__ import annotations

import sys
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from vlmlake.store_schema.lake import Lake

ROWS_SHOWN = 200
PIPED_WIDTH = 10_000
"""Columns of a table that is not shown on a terminal, so that a pipe gets one line per row."""


def terminal() -> Console:
    """The console of standard output."""
    width = None if sys.stdout.isatty() else PIPED_WIDTH
    return Console(width=width, markup=False, emoji=False, highlight=False, soft_wrap=True)


def extract_with_progress(console: Console, **options: Any) -> str:
    """Run `ingest.extract` under a progress bar; returns the run's name. options: the fields of `job.Job`."""
    from vlmlake.ingest.extract import Progress as Done
    from vlmlake.ingest.extract import extract
    from vlmlake.ingest.job import Job

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.1f} examples/s, {task.fields[written]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("loading the model", total=None, rate=0.0, written=size(0))
        begun: list[tuple[float, int]] = []

        def report(done: Done) -> None:
            now = bar.get_time()
            if not begun:
                begun.append((now, done.done))
            seconds = now - begun[0][0]
            rate = (done.done - begun[0][1]) / seconds if seconds > 0 else 0.0
            bar.update(
                task,
                description=done.run,
                completed=done.done,
                total=done.total,
                rate=rate,
                written=size(done.written),
            )

        outcome = extract(Job(**options), report)
        seconds = bar.get_time() - begun[0][0]
    if outcome.computed:
        rate = outcome.computed / seconds
        console.print(
            f"{outcome.run}: {outcome.computed} of {outcome.total} examples computed in {seconds:.1f} s "
            f"({rate:.1f} examples/s), {size(outcome.written)} written",
        )
    else:
        console.print(f"{outcome.run}: all {outcome.total} examples are there, nothing to do")
    return outcome.run


def print_info(console: Console, lake: Lake) -> None:
    """Runs, their progress, and the arrays of each with sizes on disk."""
    console.print(f"lake {lake.url}: {len(lake)} run{'' if len(lake) == 1 else 's'}")
    for run in (lake.run(name) for name in lake.runs):
        batches, done = run.record.extents.batches, run.batches_done
        examples = run.examples().height
        console.print(
            f"\n{run.name}: {examples} of {run.record.examples} examples in {done} of {batches} batches, "
            f"{run.record.stored_dtype}",
        )
        arrays = run.dataset(raw=True)
        sizes = run.array_bytes()
        table = Table("array", "dimensions", "shape", "dtype", "on disk", box=None)
        for name, stored in sizes.items():
            array = arrays[name]
            shape = " x ".join(str(length) for length in array.shape)
            table.add_row(name, ", ".join(str(d) for d in array.dims), shape, str(array.dtype), size(stored))
        table.add_row("all", "", "", "", size(sum(sizes.values())))
        console.print(table)


def print_table(console: Console, answer: pa.Table) -> None:
    """An Arrow table, aligned; floats with four digits, at most ROWS_SHOWN rows."""
    table = Table(box=None)
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
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
