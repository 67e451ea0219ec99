"""The printed table: fit for a file below benchmarks/results, named by date and machine."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch
from judged import processor
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

WIDTH = 132
console = Console(width=WIDTH, highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Row:
    """rate: examples a second. ratio: in words, to the row that they name; passed: none where there is no target."""

    number: str
    what: str
    rate: float | None = None
    ratio: str = ""
    target: str = ""
    passed: bool | None = None

    def judged(self, ratio: str, target: str, passed: bool) -> Row:
        return replace(self, ratio=ratio, target=target, passed=passed)

    def told(self, value: str) -> Row:
        return replace(self, ratio=value)


def show_run(device: str, rounds: int) -> None:
    """Where and when, and how the numbers come about."""
    chip = torch.cuda.get_device_name() if device == "cuda" else processor()
    versions = ", ".join(f"{name} {version(name)}" for name in ("vlmlake", "torch", "transformers", "numpy", "zarr"))
    command = shlex.join([f"{Path(sys.argv[0]).parent.name}/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    console.print(f"{date.today()}  python {command}")
    console.print(f"Python {platform.python_version()}, {versions}")
    console.print(f"{device}: {chip}; {os.cpu_count()} CPU cores, {torch.get_num_threads()} torch threads")
    console.print(f"Rates: best of {rounds} rounds through all ways, forwards and backwards in turn. Seeds fixed.")


def show_table(title: str, rows: Sequence[Row], notes: Sequence[str], judged: bool) -> None:
    """judged: whether the targets apply."""
    table = Table(title=title, title_justify="left", box=SIMPLE, width=WIDTH)
    for heading, justify in (("row", "left"), ("way", "left"), ("examples/s", "right"), ("ratio", "right")):
        table.add_column(heading, justify=justify, no_wrap=heading != "way")
    table.add_column("target", justify="right", no_wrap=True)
    table.add_column("pass", no_wrap=True)
    for row in rows:
        rate = "" if row.rate is None else f"{row.rate:.2f}"
        verdict = "" if row.passed is None else "not applied" if not judged else "yes" if row.passed else "NO"
        table.add_row(row.number, row.what, rate, row.ratio, row.target, verdict)
    console.print()
    console.print(table)
    for note in notes:
        console.print(note)
