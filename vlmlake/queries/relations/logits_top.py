"""`logits_top`: the ten most likely next tokens at prompt_last and at each of the answer's."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import ClassVar

import numpy as np
import polars as pl
from scipy.special import logsumexp

from vlmlake.queries.predicates import KeyConditions
from vlmlake.queries.relations.base import EXAMPLE_KEYS, LABELS, Points, Relation, Types, Unit, of_examples
from vlmlake.queries.relations.readout_rows import POSITION_KEY, readout_rows
from vlmlake.queries.run_view import RunView
from vlmlake.store_schema.points import read_points
from vlmlake.store_schema.stored_array import StoredArray

TOP = 10


class LogitsTop(Relation):
    """rank counts from 1; of equal logits the smaller token id comes first. log_prob: natural, over the vocabulary."""

    name = "logits_top"
    arrays: ClassVar[tuple[str, ...]] = ("logits",)

    @property
    def keys(self) -> Types:
        return {**EXAMPLE_KEYS, **POSITION_KEY, "rank": pl.Int32()}

    def values(self, views: Sequence[RunView]) -> Types:
        return {"token_id": pl.Int32(), "text": pl.String(), "logit": pl.Float32(), "log_prob": pl.Float32()}

    def rows_of(self, view: RunView) -> int:
        return view.record.extents.positions * TOP

    def row_bytes(self, view: RunView) -> int:
        return 4 * view.record.extents.vocab // TOP

    def rows(self, unit: Unit, wanted: Collection[str], conditions: KeyConditions) -> pl.DataFrame:
        rows = readout_rows(unit, {*wanted, *conditions.names}, conditions)
        ranks = np.arange(1, min(TOP, unit.view.record.extents.vocab) + 1, dtype=np.int32)
        rows = rows.join(pl.DataFrame({"rank": ranks}), how="cross", maintain_order="left_right")
        return conditions.keep(rows, {*LABELS, "position", "rank"})

    def reads(self, unit: Unit, rows: pl.DataFrame) -> Iterator[tuple[StoredArray, Points]]:
        yield unit.view.array("logits"), self._points(unit, rows)[0]

    def read(self, unit: Unit, rows: pl.DataFrame, wanted: Collection[str]) -> dict[str, pl.Series]:
        points, which = self._points(unit, rows)
        logits = read_points(unit.view.array("logits"), points)
        order = np.argsort(-logits, axis=1, kind="stable")[:, :TOP]
        ids = order[which, rows["rank"].to_numpy() - 1]
        taken = logits[which, ids]
        values = {
            "token_id": ids.astype(np.int32),
            "logit": taken,
            "log_prob": taken - logsumexp(logits, axis=1)[which],
        }
        found = {name: pl.Series(name, values[name]) for name in values if name in wanted}
        if "text" in wanted:
            vocabulary = unit.view.run.vocabulary
            found["text"] = pl.Series("text", [vocabulary[number] for number in ids], dtype=pl.String)
        return found

    def _points(self, unit: Unit, rows: pl.DataFrame) -> tuple[Points, np.ndarray]:
        """Each place once, and the place of each row among them."""
        places = np.stack([of_examples(unit, rows, "row"), rows["place"].to_numpy()], axis=1)
        found, which = np.unique(places, axis=0, return_inverse=True)
        return (found[:, 0], found[:, 1]), which.reshape(-1)
