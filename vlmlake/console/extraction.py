"""What `plan` and `extract` show: the budget before, the progress during, the sum after."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table

from vlmlake.console.printable import printable
from vlmlake.store_schema.sizes import size_in_words

if TYPE_CHECKING:
    from vlmlake.ingest.extract import Outcome, Progress
    from vlmlake.ingest.forecast import Forecast
    from vlmlake.ingest.job import Job

DOLLARS_A_GB_MONTH = 0.023
DOLLARS_A_THOUSAND_PUTS = 0.005
"""List prices of Amazon S3 Standard in us-east-1, 2026: an example of what an object store asks."""


def extract_with_progress(console: Console, job: Job) -> str:
    """Run `ingest.extract` under a progress bar, which appears once there is progress; returns the run's name."""
    from vlmlake.ingest.extract import extract

    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[state]}"),
        console=console,
    )
    begun: list[int] = []

    def report(now: Progress) -> None:
        if not begun:
            begun.append(now.done)
            bar.add_task(printable(now.run), total=now.total, completed=now.done, state="")
            bar.start()
        (task,) = bar.task_ids
        bar.update(task, completed=now.done, state=describe(now, begun[0]))

    try:
        outcome = extract(job, report, tell=lambda text: console.print(printable(text)))
    finally:
        if begun:
            bar.stop()
    print_outcome(console, outcome)
    return outcome.run


def describe(now: Progress, begun: int) -> str:
    """Speed, share of the time that the model waited for the writer, and the time left at this speed.

    begun: how many were done when the pass began; nothing is told before the first commit.
    """
    if now.done == begun or now.seconds <= 0:
        return ""
    rate = (now.done - begun) / now.seconds
    left = (now.total - now.done) / rate
    return (
        f"{rate:.1f} examples/s, {size_in_words(now.written / now.seconds)}/s, {size_in_words(now.written)}, "
        f"waited for the writer {now.waited / now.seconds:.0%}, {_clock(left)} left"
    )


def print_outcome(console: Console, outcome: Outcome) -> None:
    """One line for what was computed, and one more for what was shared or left out."""
    if outcome.computed:
        seconds = max(outcome.seconds, 1e-9)
        console.print(
            f"{outcome.run}: {outcome.computed} of {outcome.rows} questions computed in {outcome.seconds:.1f} s "
            f"({outcome.computed / seconds:.1f} examples/s), {size_in_words(outcome.written)} written "
            f"({size_in_words(outcome.written / seconds)}/s), waited for the writer {outcome.waited / seconds:.0%}"
        )
    else:
        console.print(f"{outcome.run}: all {outcome.rows} questions are there, nothing to do")
    if outcome.missing:
        console.print(f"{outcome.missing} batches are left to other workers; the last to end finishes the run")
    twice = outcome.examples - outcome.rows
    if twice:
        console.print(f"{twice} of {outcome.examples} examples ask what another asks of the same image: computed once")
    if outcome.skipped:
        left_out = "1 example was" if outcome.skipped == 1 else f"{outcome.skipped} examples were"
        console.print(f"{left_out} left out for a broken image: table `skipped`")


def print_forecast(console: Console, told: Forecast) -> None:
    """The arrays with what each takes, then what it comes to on a local disk and in an object store."""
    budget, record = told.budget, told.work.record
    console.print(
        f"{record.model}, plan {record.identity['plan']['name']}: {budget.examples:,} examples, "
        f"{budget.rows:,} different questions over {budget.prefixes:,} prefixes, in {budget.batches:,} batches"
    )
    if not told.opened:
        console.print("images were not opened: they are told apart by name")
    table = Table("array", "dimensions", "shape", "dtype", box=None)
    for column in ("bytes", "size", "chunks", "objects"):
        table.add_column(column, justify="right")
    for array in budget.arrays:
        table.add_row(
            array.name,
            ", ".join(array.dimensions),
            " x ".join(str(length) for length in array.shape),
            array.dtype,
            f"{array.bytes:,}",
            size_in_words(array.bytes),
            f"{array.chunks:,}",
            f"{array.objects:,}",
        )
    table.add_row(
        "all", "", "", "", f"{budget.bytes:,}", size_in_words(budget.bytes), f"{budget.chunks:,}", f"{budget.objects:,}"
    )
    console.print(table)
    console.print("bytes are those of the values at the longest answers, before compression and without padding")
    console.print(
        f"tokens: {budget.tokens:,} stored; the prompts take {told.prompt_tokens:,} through the model, "
        f"{told.unshared_tokens:,} without sharing"
    )
    free = "" if told.free is None else f", {size_in_words(told.free)} free: {_verdict(told)}"
    console.print(f"local disk: {size_in_words(budget.bytes)} in {budget.objects:,} files{free}")
    dollars = budget.bytes / 1e9 * DOLLARS_A_GB_MONTH
    puts = budget.objects / 1000 * DOLLARS_A_THOUSAND_PUTS
    console.print(
        f"object store: {budget.objects:,} PUT requests; at S3's list price ${puts:.2f} once and ${dollars:.2f} a month"
    )


def _verdict(told: Forecast) -> str:
    return "there is room" if told.free is None or told.budget.bytes <= told.free else "not enough room"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
