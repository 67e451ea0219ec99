"""5: the first question asked of SQLite with a blob for each example and layer."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
from stores.counts import Cost
from stores.files import Sqlite
from stores.subject import LONGEST, States

from statements import questions
from statements.lake import Subject
from statements.speed import LARGEST_DIFFERENCE
from statements.table import Row, show
from statements.timing import measured

TIMES_FASTER = 50.0
"""The target: of a database as VLM-Lens (Sheta et al. 2025) leaves it, torch.save's blobs of the whole prompt."""


class FetchedSqlite(Sqlite):
    """As VLM-Lens's own probe reads (src/probe/probe.py): every row is fetched, Python keeps those of the layer."""

    def read(self, path: Path, states: States, layer: int) -> np.ndarray:
        connection = sqlite3.connect(path)
        asked = connection.execute("SELECT layer, tensor FROM tensors ORDER BY rowid")
        rows = [self._decode(blob, states.hidden)[-1].copy() for of, blob in asked if of == layer]
        connection.close()
        return np.stack(rows)


def rows(subject: Subject, part: int, ours: Cost, folder: Path) -> tuple[list[Row], list[str]]:
    """part: so many examples have blobs of whole prompts, their numbers are multiplied. ours: of row 1c."""
    found = []
    for number, tokens, pickled in (("5a", LONGEST, True), ("5c", LONGEST, False), ("5d", 1, True), ("5e", 1, False)):
        kept = subject.states.first(part) if tokens == LONGEST else subject.states
        way, path = Sqlite(tokens, pickled), folder / "states.db"
        way.write(path, kept)
        found.append(_row(number, subject, way, path, kept, ours))
        if tokens == LONGEST and pickled:
            found.append(_row("5b", subject, FetchedSqlite(tokens, pickled), path, kept, ours))
        path.unlink()
    return found, [
        "5: compared with 1c, labels in memory for both; the last token's vector of each blob. By layer: an index over "
        "the layers, WHERE layer = ?. All fetched: every row,",
        f"as VLM-Lens's probe does, which keeps those of the layer. Blobs of {LONGEST} tokens, as LLaVA-1.5's prompts "
        f"have, were measured over {part} examples, all in the page cache,",
        f"and multiplied by {subject.states.examples / part:.0f}; the whole database has {_size(subject.states):,.0f} "
        "GB.",
    ]


def _size(states: States) -> float:
    """GB of all vectors of whole prompts."""
    return states.examples * states.layers * LONGEST * states.hidden * 2 / 1e9


def _row(number: str, subject: Subject, way: Sqlite, path: Path, kept: States, ours: Cost) -> Row:
    labels = subject.labels[: kept.examples]
    expected = questions.norms_by_label(subject.vectors[: kept.examples], labels)

    def ask() -> questions.Norms:
        return questions.norms_by_label(way.read(path, kept, subject.layer).astype(np.float32), labels)

    fetched = isinstance(way, FetchedSqlite)
    ((cost, answer),) = measured({way.name: ask}, rounds=1 if fetched else 3).values()
    assert questions.largest_difference([answer], expected) <= LARGEST_DIFFERENCE, "other norms were found"
    cost = cost.times(subject.states.examples / kept.examples)
    ratio = cost.seconds / ours.seconds
    judged = way.tokens == LONGEST and way.pickled
    name = f"SQLite, {'torch.save blobs' if way.pickled else 'raw blobs'}, {way.tokens} token{'s' * (way.tokens > 1)}"
    return show(
        number,
        f"{name}, {'all fetched' if fetched else 'by layer'}",
        cost,
        f"{ratio:.1f} x 1c",
        f">= {TIMES_FASTER:g} x" if judged else "",
        ratio >= TIMES_FASTER if judged else None,
    )
