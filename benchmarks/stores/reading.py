"""B: how fast one layer and position of all examples is read from this machine's disk, ours beside the others."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stores import counts
from stores.counts import Cost
from stores.files import Hdf5, Npy, Sqlite, Torch, Way
from stores.lake import Reader, write_states
from stores.subject import LONGEST, States
from stores.table import Row

TIMES_FASTER, MOST_FETCHED = 50.0, 1.2
"""The targets: files and blobs of examples' whole prompts, as a plain loop leaves them, take so many times as long; so
many times the bytes asked for.
"""


@dataclass(frozen=True)
class Effort:
    """states: whose; layer: which one is read. tokens: of the example's files and blobs. part: so many examples have
    LONGEST tokens, their numbers are multiplied.
    """

    states: States
    layer: int
    rounds: int
    tokens: tuple[int, ...]
    part: int


EFFORTS = {
    "full": Effort(States(3_090, 33, 4_096, 32), 20, 3, (1, 8), 24),
    "quick": Effort(States(70, 5, 128, 8), 3, 2, (1, 4), 4),
}


def rows(effort: Effort, folder: Path) -> tuple[list[Row], list[str]]:
    """The table's rows, and what must be known about them."""
    states, expected = effort.states, effort.states.at(effort.layer)
    url = str(folder / "lake")
    write_states(url, states)
    fresh, kept = Reader(url), Reader(url, kept=True)
    ours = _measured(lambda: fresh.read(effort.layer), expected, effort.rounds)
    open_already = _measured(lambda: kept.read(effort.layer), expected, effort.rounds)
    others = []
    for way, share in _ways(effort):
        path, part = folder / "other", states.first(round(states.examples * share))
        way.write(path, part)
        cost = _measured(_reading(way, path, part, effort.layer), expected[: part.examples], effort.rounds)
        others.append((way, cost.times(states.examples / part.examples)))
        ours = min(ours, _measured(lambda: fresh.read(effort.layer), expected, 2), key=lambda one: one.seconds)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(url)
    found = [
        fetched("B1", "ours: open the lake, select, compute", ours, states.one),
        show("B1", "ours, the run open already", open_already, ours),
        *(_compared(way, cost, ours) for way, cost in others),
    ]
    return found, _notes(effort)


def show(part: str, name: str, cost: Cost, ours: Cost) -> Row:
    """A row without a target."""
    return Row(part, name, *_cells(cost), f"{cost.seconds / ours.seconds:.2f} x")


def fetched(part: str, name: str, ours: Cost, asked: int) -> Row:
    """Ours, which may fetch little more than was asked for."""
    share = ours.bytes / asked
    return Row(part, name, *_cells(ours), f"{share:.2f} x asked", f"<= {MOST_FETCHED} x", share <= MOST_FETCHED)


def _compared(way: Way, cost: Cost, ours: Cost) -> Row:
    ratio = cost.seconds / ours.seconds
    if isinstance(way, Npy | Hdf5):
        return show("B2", way.name, cost, ours)
    part = "B3" if isinstance(way, Torch) else "B4"
    if way.tokens != LONGEST:
        return show(part, way.name, cost, ours)
    target = f">= {TIMES_FASTER:g} x"
    return Row(part, way.name, *_cells(cost), f"{ratio:.1f} x", target, ratio >= TIMES_FASTER)


def _cells(cost: Cost) -> tuple[str, str, str]:
    return f"{cost.seconds:.3f} s", f"{cost.bytes / 1e6:,.1f}", f"{cost.requests:,}"


def _ways(effort: Effort) -> Iterator[tuple[Way, float]]:
    """Each with the share of the examples that it keeps."""
    yield from ((way, 1.0) for way in (Npy(), Hdf5(chunked=True), Hdf5(chunked=False)))
    part = effort.part / effort.states.examples
    for tokens in effort.tokens:
        yield Torch(tokens), 1.0
    yield Torch(effort.tokens[-1], mapped=True), 1.0
    yield Torch(LONGEST), part
    for tokens in effort.tokens:
        yield Sqlite(tokens, pickled=True), 1.0
        yield Sqlite(tokens, pickled=False), 1.0
    yield Sqlite(LONGEST, pickled=True), part
    yield Sqlite(LONGEST, pickled=False), part


def _reading(way: Way, path: Path, states: States, layer: int) -> Callable[[], np.ndarray]:
    return lambda: way.read(path, states, layer)


def _measured(read: Callable[[], np.ndarray], expected: np.ndarray, rounds: int) -> Cost:
    """The best of some, after one that is not counted."""
    costs = []
    for _ in range(1 + rounds):
        cost, values = counts.local(read)
        if not np.array_equal(values.astype(np.float16), expected):
            raise AssertionError("other values were read than were written")
        costs.append(cost)
    return min(costs[1:], key=lambda one: one.seconds)


def _notes(effort: Effort) -> list[str]:
    states = effort.states
    return [
        f"B: {states.examples:,} examples, {states.layers} layers, 2 positions, {states.hidden:,} values, float16; "
        f"read: layer {effort.layer}, one position, {states.one / 1e6:.1f} MB. Best of {effort.rounds} rounds, all "
        "values compared.",
        "B: file contents are in the page cache for all. requests: calls of the operating system that read, which what "
        "is mapped into memory needs none of.",
        "B: ours comes as float32, decompressed and with every checksum compared; the others as float16, nothing "
        "checked. A file of torch.save has all layers of an",
        f"example's tokens; rows of {LONGEST} tokens, as LLaVA-1.5's prompts have, were measured over {effort.part} "
        f"examples and multiplied by {states.examples / effort.part:.0f}.",
    ]
