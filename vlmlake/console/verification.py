"""What `verify` shows: how much of each run was looked at, then every problem in one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from vlmlake.console.tables import escaped
from vlmlake.store_schema.sizes import size_in_words
from vlmlake.store_schema.verdict import Problem, Verdict, is_sound

PROBLEMS_SHOWN = 50


def print_verdicts(
    console: Console, verdicts: Sequence[Verdict], replayed: Mapping[str, tuple[int, Sequence[Problem]]]
) -> bool:
    """A row for every run, then its problems; returns whether all is well.

    replayed: by run, how many of its examples the model computed again, and what was different.
    """
    table = Table("run", box=None)
    columns = ("batches", "shards", "chunks", "bytes", "examples", *(["replayed"] if replayed else []), "problems")
    for column in columns:
        table.add_column(column, justify="right")
    problems: list[Problem] = []
    for one in verdicts:
        again, different = replayed.get(one.run or "", (0, ()))
        found = [*one.problems, *different]
        problems += found
        if one.run is None and not found:
            continue
        counts = [one.looked.batches, one.looked.shards, one.looked.chunks]
        cells = [*(f"{count:,}" for count in counts), size_in_words(one.looked.bytes), f"{one.looked.examples:,}"]
        cells += [f"{again:,}"] if replayed else []
        table.add_row(escaped(one.run or "(all runs)"), *cells, f"{len(found):,}")
    console.print(table)
    for problem in problems[:PROBLEMS_SHOWN]:
        console.print(escaped(str(problem)))
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
        console.print(f"{escaped(run)}: {what} {listed} taken back; `vlmlake extract` computes them again")
