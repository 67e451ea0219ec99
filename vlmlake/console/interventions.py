"""What `ablate`, `mask` and `patch` show: the plan before, the progress during, what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from vlmlake.console.analysis import analyze_with_progress
from vlmlake.console.causal import print_causal
from vlmlake.console.printable import printable
from vlmlake.store_schema.lake import open_lake

if TYPE_CHECKING:
    from vlmlake.ingest.interventions.intervene import Outcome, Progress
    from vlmlake.ingest.interventions.intervention import Settings
    from vlmlake.ingest.interventions.requests.subject import Request
    from vlmlake.ingest.interventions.routes import Group, Plan

CAUSAL = "causal"


def print_plan(console: Console, plan: Plan) -> None:
    """A line for each group of conditions, then the sum."""
    console.print(
        f"{plan.conditions:,} conditions over {plan.examples:,} examples: {plan.pairs:,} outcomes, {plan.done:,} of "
        "them there"
    )
    if not plan.groups:
        return
    table = Table("route", "runs", box=None)
    for column in ("conditions", "outcomes", "block evaluations", "plain reruns", "fewer"):
        table.add_column(column, justify="right")
    for group in plan.groups:
        counts = (len(group.conditions), group.pairs, group.evaluations, group.plain)
        runs = _runs(group, plan.blocks)
        table.add_row(group.route, runs, *(f"{count:,}" for count in counts), _times(group.plain, group.evaluations))
    sums = (sum(len(group.conditions) for group in plan.groups), plan.pairs - plan.done, plan.evaluations, plan.plain)
    table.add_row("all", "", *(f"{count:,}" for count in sums), _times(plan.plain, plan.evaluations))
    console.print(table)
    console.print("a block evaluation is one block over one token; a plain rerun runs the whole model per condition")


def intervene_and_analyze(
    console: Console,
    url: str,
    run: str,
    request: Request,
    rule: str,
    examples: Sequence[str] | None,
    settings: Settings,
    storage_options: Mapping[str, Any] | None = None,
) -> None:
    """Run `interventions.intervene` under a progress bar; once nothing is missing, what the outcomes tell."""
    outcome = intervene_with_progress(
        console, url, run, request, examples=examples, settings=settings, storage_options=storage_options
    )
    if outcome.missing:
        console.print(f"{outcome.missing:,} outcomes are left to other workers; `vlmlake analyze {CAUSAL}` comes after")
        return
    found = analyze_with_progress(console, url, [CAUSAL], run=run, rule=rule, storage_options=storage_options)
    found.raise_refusals()
    made = open_lake(url, storage_options).run(run).findings("interventions")
    own = made.filter(pl.col("intervention") == outcome.intervention)
    print_causal(console, found.table.filter(pl.col("intervention") == outcome.intervention), own)


def intervene_with_progress(console: Console, url: str, run: str, request: Request, **settings: Any) -> Outcome:
    """The outcomes made, with a bar while they are, and a line for what it came to."""
    from vlmlake.ingest.interventions.intervene import intervene

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Bar(*columns, console=console, disable=not console.is_terminal)

    def report(now: Progress) -> None:
        if not bar.tasks:
            bar.add_task(printable(now.run), total=now.total, completed=now.done)
        bar.update(bar.tasks[0].id, completed=now.done)

    def tell(plan: Plan) -> None:
        print_plan(bar.console, plan)

    with bar:
        outcome = intervene(url, run, request, report=report, tell=tell, **settings)
    made = f"{outcome.computed:,} outcomes made in {outcome.seconds:.1f} s"
    console.print(f"{printable(outcome.run)} {outcome.intervention}: {made}")
    if outcome.differing:
        console.print(
            f"{outcome.differing} of {outcome.compared} answers of the model as it is are not those that the run stored"
        )
    return outcome


def _runs(group: Group, blocks: int) -> str:
    """What runs under each condition."""
    if group.route == "algebra":
        return "no model"
    if group.route == "full":
        return "the whole model"
    if group.block == blocks:
        return "the final norm"
    return f"from block_{group.block} of {blocks}{', as stored' if group.stored else ''}"


def _times(plain: int, evaluations: int) -> str:
    return f"{plain / evaluations:.1f} x" if evaluations else ""
