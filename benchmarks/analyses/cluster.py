"""4: the same analyses on a cluster of worker processes: the same numbers, and what that costs."""

from __future__ import annotations

from analyses.findings import largest_difference
from analyses.process import WORKERS, Subject
from analyses.table import Row, show

LARGEST_DIFFERENCE = 1e-5
"""The target."""
WAYS = {"probes": "probes.whole", "attention": "attention.ours", "margins": "margins.ours"}


def rows(subject: Subject, examples: int) -> tuple[list[Row], list[str]]:
    """The table's rows, and what must be known about them. examples: of the run, the first so many."""
    found = []
    for number, (name, way) in zip("ace", WAYS.items(), strict=True):
        threads, cluster = (
            subject.measured(way, examples, scheduler=scheduler) for scheduler in ("threads", "cluster")
        )
        apart = largest_difference(threads.numbers, cluster.numbers)
        found += [
            show(
                f"4{number}",
                f"{name} on a cluster",
                cluster,
                f"differs by {apart:.1e}",
                f"<= {LARGEST_DIFFERENCE:g}",
                apart <= LARGEST_DIFFERENCE,
            ),
            show(f"4{chr(ord(number) + 1)}", f"{name} in this process's threads", threads),
        ]
    return found, [
        f"4: whole analyses of the first {examples:,} examples, all layers. A LocalCluster of {WORKERS} processes of "
        "one thread; its start is not counted, memory is that of the process that asks.",
        "4: differs by: the largest of all |differences| in the table (values, bounds, p-values) and the examples' "
        "numbers, relative where the number is larger than 1.",
    ]
