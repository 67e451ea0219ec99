"""What `analyze` and `study` show: a bar while they work, then what was found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from vlmlake.analysis.analyses import ANALYSES
from vlmlake.analysis.analyze import Findings, Step, analyze
from vlmlake.analysis.blocks import watching
from vlmlake.analysis.causal import CAUSAL
from vlmlake.analysis.population import ALL_SPLITS
from vlmlake.console.causal import print_causal
from vlmlake.console.printable import printable
from vlmlake.console.tables import print_results, print_table

ROWS_A_TABLE = 40
"""Of one analysis of one run that are printed; all are in the table `results`."""


def analyze_with_progress(console: Console, url: str, names: Sequence[str], **settings: Any) -> Findings:
    """Run `analysis.analyze` under a progress bar for the tasks of each analysis."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bar = Bar(*columns, console=console, disable=not console.is_terminal)
    tasks: dict[tuple[str, str], TaskID] = {}

    def tell(step: Step) -> None:
        place = (step.run, step.analysis)
        if step.state == "started":
            tasks[place] = bar.add_task(printable(f"{step.run} {step.analysis}"), total=None)
        elif place in tasks:
            bar.remove_task(tasks.pop(place))
        if console.is_terminal and step.state == "done":
            bar.console.print(printable(f"{step.run} {step.analysis}: {step.seconds:.1f} s"))

    def count(done: int, total: int) -> None:
        for task in tasks.values():
            bar.update(task, completed=done, total=total)

    with bar, watching(count):
        return analyze(url, names, tell=tell, **settings)


def print_findings(console: Console, found: Findings, interventions: pl.DataFrame) -> None:
    """Of each run and analysis what holds over all splits and heads, then what was not computed again.

    interventions: rows of tables.INTERVENTIONS, of which `causal` has found something.
    """
    effects = found.table.filter(pl.col("analysis") == CAUSAL.name)
    rest = found.table.filter(pl.col("analysis") != CAUSAL.name)
    headline = pl.any_horizontal(
        (pl.col("analysis") == name) & (pl.col("metric").is_in(one.headline) if one.headline else True)
        for name, one in ANALYSES.items()
    )
    pooled = rest.filter(headline, pl.col("split") == ALL_SPLITS, pl.col("head").is_null(), pl.col("at").is_null())
    first = pooled.group_by("run", "analysis", maintain_order=True).head(ROWS_A_TABLE)
    print_results(console, first if rest.height > len(first) else rest)
    print_causal(console, effects, interventions)
    if first.height < found.table.height:
        console.print(
            f"\n{found.table.height - first.height:,} more rows (splits, gold answers, heads, curves, further metrics) "
            "in the table `results`"
        )
    for reason in found.impossible:
        console.print(printable(f"not possible: {reason}"))
    unchanged = [f"{step.analysis} of {step.run}" for step in found.steps if step.state == "unchanged"]
    if unchanged:
        console.print(printable(f"{len(unchanged)} unchanged, not computed again: {', '.join(unchanged)}"))


def print_study(console: Console, rows: pl.DataFrame) -> None:
    """A table per run, published values beside ours, then what must be known of either."""
    notes = pl.concat([rows["note"], rows["own_note"].str.split("; ").explode()]).drop_nulls()
    marks = {note: f"[{number}]" for number, note in enumerate(notes.unique(maintain_order=True), 1)}
    shown = ("quantity", "where", "published", "ours", "n", "n_images", "notes")
    for (run, family), part in rows.group_by("run", "family", maintain_order=True):
        console.print("\n" + printable(f"{run} ({family})"))
        marked = part.with_columns(
            notes=pl.concat_list(pl.col("note").fill_null(""), pl.col("own_note").fill_null("").str.split("; "))
            .list.eval(pl.element().filter(pl.element() != "").replace_strict(marks, return_dtype=pl.String))
            .list.join(" ")
        )
        print_table(console, marked.select(shown).to_arrow())
    console.print()
    for note, mark in marks.items():
        console.print(printable(f"{mark} {note}"))
