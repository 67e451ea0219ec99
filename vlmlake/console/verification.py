"""What `verify` shows: how much of each run was looked at, then every problem in one line."""

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
    from vlmlake.ingest.replay import Replayed
    from vlmlake.ingest.replay_job import Sources

PROBLEMS_SHOWN = 50


def replay_runs(
    lake: Lake, verdicts: Sequence[Verdict], count: int, seed: int, sources: Sources
) -> dict[str, Replayed]:
    """Examples of every run that there is something of, computed again."""
    from vlmlake.ingest.replay import replay

    there = [one.run for one in verdicts if one.run and one.looked.batches]
    return {name: replay(lake.run(name), count, seed, sources) for name in there}


def print_verdicts(console: Console, verdicts: Sequence[Verdict], replayed: Mapping[str, Replayed]) -> bool:
    """A row for every run, then its problems; returns whether all is well."""
    table = Table("run", box=None)
    columns = ("batches", "shards", "chunks", "bytes", "examples", *(["replayed"] if replayed else []), "problems")
    for column in columns:
        table.add_column(column, justify="right")
    problems: list[Problem] = []
    for one in verdicts:
        again = replayed.get(one.run or "")
        found = [*one.problems, *(again.problems if again else ())]
        problems += found
        if one.run is None and not found:
            continue
        counts = [one.looked.batches, one.looked.shards, one.looked.chunks]
        cells = [*(f"{count:,}" for count in counts), size_in_words(one.looked.bytes), f"{one.looked.examples:,}"]
        cells += [f"{len(again.examples) if again else 0:,}"] if replayed else []
        table.add_row(printable(one.run or "(all runs)"), *cells, f"{len(found):,}")
    console.print(table)
    for problem in problems[:PROBLEMS_SHOWN]:
        console.print(printable(str(problem)))
    if len(problems) > PROBLEMS_SHOWN:
        console.print(f"{len(problems) - PROBLEMS_SHOWN} more problems")
    if not any(one.looked.batches for one in verdicts):
        console.print("nothing was checked: there is no committed batch")
    return is_sound(verdicts) and not problems


def print_withdrawn(console: Console, taken: Mapping[str, tuple[int, ...]]) -> None:
    """Which batches' commits were taken back."""
    for run, numbers in taken.items():
        what = "batch" if len(numbers) == 1 else "batches"
        listed = ", ".join(map(str, numbers))
        console.print(f"{printable(run)}: {what} {listed} taken back; `vlmlake extract` computes them again")
