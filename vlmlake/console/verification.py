"""What `verify` shows: how much of each run was looked at, every problem in one line, then what was replayed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from vlmlake.console.printable import printable
from vlmlake.store_schema.lake import Lake
from vlmlake.store_schema.sizes import size_in_words
from vlmlake.store_schema.verdict import Problem, Verdict, is_sound

if TYPE_CHECKING:
    from vlmlake.ingest.replay_job import Sources

PROBLEMS_SHOWN = 50


def print_verdicts(console: Console, verdicts: Sequence[Verdict]) -> bool:
    """A row for every run, then its problems; returns whether all is well."""
    table = Table("run", box=None)
    for column in ("batches", "shards", "chunks", "bytes", "examples", "problems"):
        table.add_column(column, justify="right")
    for one in verdicts:
        if one.run is None and not one.problems:
            continue
        counts = [one.looked.batches, one.looked.shards, one.looked.chunks]
        cells = [*(f"{count:,}" for count in counts), size_in_words(one.looked.bytes), f"{one.looked.examples:,}"]
        table.add_row(printable(one.run or "(all runs)"), *cells, f"{len(one.problems):,}")
    console.print(table)
    _print_problems(console, [problem for one in verdicts for problem in one.problems])
    if not any(one.looked.batches for one in verdicts):
        console.print("nothing was checked: there is no committed batch")
    return is_sound(verdicts)


def replay_runs(
    console: Console, lake: Lake, verdicts: Sequence[Verdict], count: int, seed: int, sources: Sources
) -> bool:
    """Examples of every run that there is something of, computed again, a line for each run and for every problem;
    returns whether all is well.
    """
    from vlmlake.ingest.replay import replay

    problems: list[Problem] = []
    for name in (one.run for one in verdicts if one.run and one.looked.batches):
        again = replay(lake.run(name), count, seed, sources)
        many = f"{len(again.examples):,} example{'' if len(again.examples) == 1 else 's'}"
        console.print(f"{printable(name)}: {many} replayed, problems: {len(again.problems):,}")
        _print_problems(console, again.problems)
        problems += again.problems
    return not problems


def _print_problems(console: Console, problems: Sequence[Problem]) -> None:
    for problem in problems[:PROBLEMS_SHOWN]:
        console.print(printable(str(problem)))
    if len(problems) > PROBLEMS_SHOWN:
        console.print(f"{len(problems) - PROBLEMS_SHOWN} more problems")


def print_withdrawn(console: Console, taken: Mapping[str, tuple[int, ...]]) -> None:
    """Which batches' commits were taken back."""
    for run, numbers in taken.items():
        what = "batch" if len(numbers) == 1 else "batches"
        listed = ", ".join(map(str, numbers))
        console.print(f"{printable(run)}: {what} {listed} taken back; `vlmlake extract` computes them again")
