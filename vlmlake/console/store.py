"""What the verbs on a lake's files show: how far runs are, what is left over, what was copied."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from vlmlake.console.printable import printable
from vlmlake.store_schema.copying import Copied
from vlmlake.store_schema.leftovers import Leftover
from vlmlake.store_schema.sizes import size_in_words
from vlmlake.store_schema.status import RunStatus, WorkerStatus

NUMBERS_SHOWN = 20


def print_status(console: Console, status: RunStatus) -> None:
    """One line for the run, one for each kind of batch that is not committed, one for each worker."""
    console.print(
        f"{printable(status.run)}: {'finished' if status.finished else 'not finished'}, {len(status.committed)} of "
        f"{status.planned} batches committed, {status.examples} examples, {size_in_words(status.bytes)}"
    )
    kinds = (("being written", status.writing), ("left over", status.left_over), ("missing", status.missing))
    for words, numbers in kinds:
        if numbers:
            console.print(f"  {words}: {len(numbers)} ({_listed(numbers)})")
    for number, why in status.broken.items():
        console.print(f"  broken: batch {number}: {printable(why)}")
    for worker in status.workers:
        console.print(f"  {printable(_worker(worker))}")


def print_leftovers(console: Console, found: Sequence[Leftover], removed: Sequence[Leftover] | None) -> None:
    """A line for each file, then the sum. removed: none where nothing was to be removed."""
    if found:
        table = Table("kind", "age", "size", "path", "", box=None)
        gone = {(one.kind, one.path) for one in removed or ()}
        for one in found:
            table.add_row(
                one.kind,
                _ago(one.age),
                size_in_words(one.bytes),
                printable(one.path),
                "removed" if (one.kind, one.path) in gone else _stays(one, removed is not None),
            )
        console.print(table)
    removable = [one for one in found if one.removable]
    room = size_in_words(sum(one.bytes for one in (removable if removed is None else removed)))
    if removed is None:
        hint = "; --delete removes them" if removable else ""
        console.print(f"{len(removable)} left over, {room}{hint}")
    else:
        console.print(f"{len(removed)} removed, {room}")


def print_copied(console: Console, copied: Copied, target: str) -> None:
    """One line."""
    done = f"{copied.copied} copied now" if copied.copied else "nothing to do"
    console.print(
        f"{printable(copied.run)}: {copied.examples} examples in {copied.batches} batches at {printable(target)}, "
        f"{done}, {size_in_words(copied.read)} read, {size_in_words(copied.written)} written, "
        f"{'finished' if copied.finished else 'not finished'}"
    )


def _stays(one: Leftover, deleting: bool) -> str:
    if one.kind == "unknown":
        return "not of vlmlake: stays"
    if one.young:
        return "young: stays"
    return "in use again: stays" if deleting else ""


def _worker(worker: WorkerStatus) -> str:
    doing = "between two batches" if worker.writing is None else f"writes batch {worker.writing}"
    silent = "" if worker.silent is None else f", said so about {_ago(worker.silent)} ago"
    return (
        f"worker {worker.worker}: {worker.committed} of its {worker.owned} batches committed, {worker.passed} of them "
        f"in its last pass ({size_in_words(worker.bytes)}); {doing}{silent}"
    )


def _ago(seconds: float) -> str:
    if seconds < 120:
        return f"{max(0.0, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def _listed(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:NUMBERS_SHOWN]))
    return f"{shown} and {len(numbers) - NUMBERS_SHOWN} more" if len(numbers) > NUMBERS_SHOWN else shown
