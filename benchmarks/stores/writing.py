"""A: how fast batches of values are written, ours beside the others, to the page cache and to the disk."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest.mock import patch

import h5py
import numpy as np
import torch

from stores.files import as_torch_file, insert, table_at
from stores.lake import Writer, plan
from stores.subject import attention, hidden_states
from stores.table import Row
from vlmlake.store_schema.shards import THREADS

LEAST = 0.5
"""GB/s, the target."""

Begin = Callable[[Path, bool], Callable[[], None]]
"""Given a folder, and whether to wait for the disk, what writes there."""


@dataclass(frozen=True)
class Effort:
    """batches: how many are written of each kind. hidden, attention: what `hidden_states` and `attention` take."""

    batches: int
    rounds: int
    hidden: tuple[int, int, int, int]
    attention: tuple[int, int, int, int, int]


EFFORTS = {
    "full": Effort(4, 3, (32, 33, 16, 4096), (8, 33, 32, 16, 608)),
    "quick": Effort(2, 1, (8, 5, 16, 512), (4, 5, 4, 16, 96)),
}


def rows(effort: Effort, folder: Path) -> tuple[list[Row], list[str]]:
    """The table's rows, and what must be known about them."""
    found, gains = [], []
    for part, name, values in (
        ("A1", "hidden_states", hidden_states(*effort.hidden)),
        ("A2", "attention", attention(*effort.attention)),
    ):
        ways = _ways(name, values, effort.batches)
        cached = {way: _best(write, folder, False, effort.rounds) for way, write in ways.items()}
        synced = {way: _best(write, folder, True, 1) for way, write in ways.items()}
        found += _rows(part, name, cached, values.nbytes * effort.batches, judged=True)
        found += _rows(f"{part}s", f"{name}, synced", synced, values.nbytes * effort.batches, judged=False)
        gains.append(f"{name} {values.nbytes * effort.batches / cached['ours'][1]:.2f} x")
    return found, [
        f"A: {effort.batches} batches of {' x '.join(map(str, effort.hidden))} hidden states and of "
        f"{' x '.join(map(str, effort.attention))} attention weights, float16; GB of values a second.",
        "A: rows without s: nobody waits for the disk (ours with fsync left out, SQLite synchronous=OFF); with s: "
        "everybody does, each file, each SQLite batch.",
        f"A: ours compresses with zstd in {THREADS} threads and checks by CRC-32C: smaller by {', '.join(gains)}"
        "; all others write as it is.",
    ]


def _rows(part: str, what: str, found: dict[str, tuple[float, int]], size: int, judged: bool) -> list[Row]:
    ours = size / found["ours"][0] / 1e9
    made = []
    for way, (seconds, written) in found.items():
        rate = size / seconds / 1e9
        is_ours = way == "ours"
        made.append(
            Row(
                part,
                f"{what}: {way}",
                f"{rate:.2f} GB/s",
                f"{written / 1e6:,.1f}",
                "",
                "" if is_ours else f"{rate / ours:.2f} x",
                f">= {LEAST} GB/s" if is_ours and judged else "",
                rate >= LEAST if is_ours and judged else None,
            )
        )
    return made


def _best(begin: Begin, folder: Path, synced: bool, rounds: int) -> tuple[float, int]:
    """Least seconds, and bytes that came of it. What an earlier one left to the disk is there before each begins."""
    seconds, written = [], 0
    for _ in range(rounds):
        target = folder / "written"
        target.mkdir()
        os.sync()
        quiet: AbstractContextManager[object] = nullcontext() if synced else patch("os.fsync", lambda handle: None)
        with quiet:
            write = begin(target, synced)
            start = time.perf_counter()
            write()
            seconds.append(time.perf_counter() - start)
        written = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
        shutil.rmtree(target)
    return min(seconds), written


def _ways(name: str, values: np.ndarray, batches: int) -> dict[str, Begin]:
    """By name what writes so many batches."""
    lengths = dict(zip(_AXES[name], values.shape[1:], strict=True))
    lengths["prefix_tokens"] = lengths.pop("keys", 1 + lengths["tokens"]) - lengths["tokens"]

    def ours(folder: Path, synced: bool) -> Callable[[], None]:
        writer = Writer(str(folder), name, plan(name, batches, len(values), **lengths))

        def commit_all() -> None:
            for number in range(batches):
                writer.commit(number, values)

        return commit_all

    def npy(folder: Path, synced: bool) -> None:
        for number in range(batches):
            path = folder / f"{number}.npy"
            np.save(path, values)
            _sync(path, synced)

    def torch_files(folder: Path, synced: bool) -> None:
        for number in range(batches * len(values)):
            path = folder / f"{number}.pt"
            torch.save(torch.from_numpy(values[number % len(values)]), path)
            _sync(path, synced)

    def hdf5(folder: Path, synced: bool, chunks: tuple[int, ...] | None) -> None:
        path = folder / "values.h5"
        with h5py.File(path, "w") as file:
            shape = (batches * len(values), *values.shape[1:])
            array = file.create_dataset("values", shape, np.float16, chunks=chunks)
            for number in range(batches):
                array[number * len(values) : (number + 1) * len(values)] = values
                file.flush()
                _sync(path, synced)

    def sqlite(folder: Path, synced: bool) -> None:
        connection: sqlite3.Connection = table_at(folder / "values.db", synced)
        for number in range(batches):
            for row, layers in enumerate(values):
                insert(connection, number * len(values) + row, layers, as_torch_file)
            connection.commit()
        connection.close()

    piece = (1, 1, *values.shape[2:]) if values.ndim == 4 else (1, 1, 4, *values.shape[3:])
    return {
        "ours": ours,
        "np.save, a file per batch": lambda *place: partial(npy, *place),
        "torch.save, a file per example": lambda *place: partial(torch_files, *place),
        "h5py, chunks as ours": lambda *place: partial(hdf5, *place, piece),
        "h5py, contiguous": lambda *place: partial(hdf5, *place, None),
        "SQLite, a blob per example and layer": lambda *place: partial(sqlite, *place),
    }


_AXES = {"hidden_states": ("layers", "tokens", "hidden"), "attention": ("layers", "heads", "tokens", "keys")}


def _sync(path: Path, synced: bool) -> None:
    if synced:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
