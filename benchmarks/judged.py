"""The printed table of a benchmark whose rows may have targets, and the command around it."""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

console = Console(width=144, highlight=False, soft_wrap=True)


class Row(Protocol):
    """part: number of the row, its first character that of the section. cells: what was measured, in words. passed:
    none where there is no target.
    """

    part: str
    way: str
    target: str
    passed: bool | None

    @property
    def cells(self) -> Sequence[str]: ...


Measured = tuple[Sequence[Row], Sequence[str]]
"""The table's rows, and what must be known about them."""


def run(
    asked: argparse.Namespace,
    packages: Sequence[str],
    headings: Sequence[str],
    measure: Callable[[str, Path], Measured],
) -> int:
    """The whole command, its exit status. asked: as `parser` reads it. measure: is given `full` or `quick` and a
    temporary folder.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the temporary folder goes, too
    _show_run(packages)
    with tempfile.TemporaryDirectory(prefix="vlmlake-benchmark-") as folder:
        rows, notes = measure("quick" if asked.quick else "full", Path(folder))
    _show_table(headings, rows, notes, judged=asked.check or not asked.quick)
    missed = [f"{row.part} ({row.way})" for row in rows if row.passed is False]
    if asked.check:
        show_missed(missed)
    return int(asked.check and bool(missed))


def show_missed(missed: Sequence[str]) -> None:
    console.print()
    console.print(f"Short of their target: {', '.join(missed)}" if missed else "Every row meets its target.")


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def parser(about: str) -> argparse.ArgumentParser:
    """about: for the help."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small shapes; no target is applied")
    parser.add_argument("--check", action="store_true", help="apply the targets, with --quick too")
    return parser


def _show_run(packages: Sequence[str]) -> None:
    """Where and when."""
    command = shlex.join([f"{Path(sys.argv[0]).parent.name}/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    console.print(f"{date.today()}  python {command}")
    console.print(f"Python {platform.python_version()}, {', '.join(f'{name} {version(name)}' for name in packages)}")
    console.print(f"{processor()}; {os.cpu_count()} CPU cores")


def _show_table(headings: Sequence[str], rows: Sequence[Row], notes: Sequence[str], judged: bool) -> None:
    """judged: whether the targets apply."""
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("row", no_wrap=True)
    table.add_column("way", no_wrap=True)
    for heading in (*headings, "target"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("met", no_wrap=True)
    part = ""
    for row in rows:
        if part and row.part[0] != part:
            table.add_section()
        part = row.part[0]
        verdict = "" if row.passed is None else "not applied" if not judged else "yes" if row.passed else "NO"
        table.add_row(row.part, row.way, *row.cells, row.target, verdict)
    console.print()
    console.print(table)
    for note in notes:
        console.print(note)
