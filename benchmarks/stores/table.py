"""The printed table: way, rate or seconds, bytes, requests, ratio to ours, target."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

from report import processor
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

console = Console(width=144, highlight=False, soft_wrap=True)
PACKAGES = ("vlmlake", "numpy", "torch", "h5py", "zarr", "numcodecs", "dask", "s3fs", "moto")


@dataclass(frozen=True)
class Row:
    """value: a rate, seconds or bytes in words. ratio: how many times ours. passed: none where there is no target."""

    part: str
    way: str
    value: str
    bytes: str = ""
    requests: str = ""
    ratio: str = ""
    target: str = ""
    passed: bool | None = None


def show_run() -> None:
    """Where and when."""
    command = shlex.join([f"{Path(sys.argv[0]).parent.name}/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    console.print(f"{date.today()}  python {command}")
    console.print(f"Python {platform.python_version()}, {', '.join(f'{name} {version(name)}' for name in PACKAGES)}")
    console.print(f"{processor()}; {os.cpu_count()} CPU cores")


def show_table(rows: Sequence[Row], notes: Sequence[str], judged: bool) -> None:
    """judged: whether the targets apply."""
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("row", no_wrap=True)
    table.add_column("way", no_wrap=True)
    for heading in ("GB/s or s", "MB", "requests", "to ours", "target"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("met", no_wrap=True)
    part = ""
    for row in rows:
        if part and row.part[0] != part:
            table.add_section()
        part = row.part[0]
        verdict = "" if row.passed is None else "not applied" if not judged else "yes" if row.passed else "NO"
        table.add_row(row.part, row.way, row.value, row.bytes, row.requests, row.ratio, row.target, verdict)
    console.print()
    console.print(table)
    for note in notes:
        console.print(note)
