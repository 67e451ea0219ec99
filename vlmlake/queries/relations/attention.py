"""`attention` and `attention_image`: softmax rows, a row per example, layer, head and query, over all tokens or over
the image.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import ClassVar

import numpy as np
import polars as pl
import pyarrow as pa

from vlmlake.errors import VlmlakeError
from vlmlake.queries.predicates import KeyConditions
from vlmlake.queries.relations.base import (
    EXAMPLE_KEYS,
    LABELS,
    LAYER_KEY,
    Points,
    Relation,
    Types,
    Unit,
    of_examples,
    vector_type,
    vectors,
)
from vlmlake.queries.relations.token_rows import PROMPT, position_numbers, token_keys, token_rows
from vlmlake.queries.run_view import RunView
from vlmlake.store_schema.points import read_points
from vlmlake.store_schema.schema import PROMPT_LAST, position_names
from vlmlake.store_schema.stored_array import StoredArray

PREFIX, SUFFIX, READOUT = "prefix_attention", "attention", "readout_attention"


class Attention(Relation):
    """weights[i] is the share of token i of the same example, 0 for those that the query does not see. query: number of
    the token that looks; role and position are its own. Queries of the prefix come from `prefix_attention`, the others
    from `attention`, where the run keeps them.
    """

    name = "attention"
    arrays: ClassVar[tuple[str, ...]] = (PREFIX, SUFFIX)
    by_layer = True
    blocks_only = True

    @property
    def keys(self) -> Types:
        return {**EXAMPLE_KEYS, **LAYER_KEY, "head": pl.Int32(), **token_keys("query")}

    def values(self, views: Sequence[RunView]) -> Types:
        return {"weights": pl.List(pl.Float32())}

    def rows_of(self, view: RunView) -> int:
        extents = view.record.extents
        return extents.heads * (
            extents.prefix_tokens * view.keeps(PREFIX) + extents.tokens * bool(self._suffix_array(view))
        )

    def row_bytes(self, view: RunView) -> int:
        return 4 * view.record.extents.length("key")

    def rows(self, unit: Unit, wanted: Collection[str], conditions: KeyConditions) -> pl.DataFrame:
        view, needed = unit.view, {*wanted, *conditions.names}
        suffix = self._suffix_array(view)
        rows = token_rows(unit, "query", needed, conditions, view.keeps(PREFIX), suffix is not None)
        if suffix == READOUT:
            read = _readout_places(view, position_numbers(unit, rows, "query")) >= 0
            rows = rows.filter(read | (rows["query"].to_numpy() < of_examples(unit, rows, "prefix_tokens")))
        heads = pl.DataFrame({"head": np.arange(view.record.extents.heads, dtype=np.int32)})
        rows = rows.join(heads, how="cross", maintain_order="left_right")
        return conditions.keep(rows, {*LABELS, "query", "role", "position", "head"})

    def reads(self, unit: Unit, rows: pl.DataFrame) -> Iterator[tuple[StoredArray, Points]]:
        for array, _, points in self._parts(unit, rows):
            yield array, points

    def read(self, unit: Unit, rows: pl.DataFrame, wanted: Collection[str]) -> dict[str, pl.Series]:
        extents = unit.view.record.extents
        shares = self._shares(unit, rows, extents.length("key"))
        before = of_examples(unit, rows, "prefix_tokens")
        after = of_examples(unit, rows, "suffix_tokens") + of_examples(unit, rows, "answer_tokens")
        place = np.arange(shares.shape[1])
        there = place < before[:, None]
        there |= (place >= extents.prefix_tokens) & (place < (extents.prefix_tokens + after)[:, None])
        return {"weights": _lists("weights", shares[there], before + after)}

    def _suffix_array(self, view: RunView) -> str | None:
        return SUFFIX if view.keeps(SUFFIX) else None

    def _shares(self, unit: Unit, rows: pl.DataFrame, width: int) -> np.ndarray:
        """[n, width] of the keys as the arrays have them; 0 where nothing is stored: for tokens that are not seen."""
        shares = np.zeros((len(rows), width), np.float32)
        for array, here, points in self._parts(unit, rows):
            stored = read_points(array, points)[:, :width]
            np.copyto(stored, 0, where=np.isnan(stored))
            shares[here, : stored.shape[1]] = stored
        return shares

    def _parts(self, unit: Unit, rows: pl.DataFrame) -> Iterator[tuple[StoredArray, np.ndarray, Points]]:
        """Of each array that holds some of the rows: which, and their places in it."""
        view = unit.view
        query, prefix_tokens = rows["query"].to_numpy(), of_examples(unit, rows, "prefix_tokens")
        inside, suffix = query < prefix_tokens, self._suffix_array(view)
        places = query - prefix_tokens
        if suffix == READOUT:
            places = _readout_places(view, position_numbers(unit, rows, "query"))
        layer = view.record.layers.index(str(unit.layer))
        for name, axis, here, place in ((PREFIX, "prefix", inside, query), (str(suffix), "row", ~inside, places)):
            if here.any():
                entries, heads = of_examples(unit, rows, axis)[here], rows["head"].to_numpy()[here]
                yield view.array(name), here, (entries, np.full(len(entries), layer), heads, place[here])


class AttentionImage(Attention):
    """weights: shares of the image's tokens alone, one row of the grid after another; they sum to what the image gets.

    Where a run keeps no `attention`, the rows of `readout_attention` are here: of prompt_last and the answer's tokens.
    """

    name = "attention_image"
    arrays: ClassVar[tuple[str, ...]] = (PREFIX, SUFFIX, READOUT)
    of_tokens: ClassVar[frozenset[str]] = frozenset({"grid_rows", "grid_columns"})

    def values(self, views: Sequence[RunView]) -> Types:
        weights = vector_type([view.map_length for view in views])
        return {"weights": weights, "grid_rows": pl.Int32(), "grid_columns": pl.Int32()}

    def row_bytes(self, view: RunView) -> int:
        return 4 * view.record.extents.prefix_tokens

    def read(self, unit: Unit, rows: pl.DataFrame, wanted: Collection[str]) -> dict[str, pl.Series]:
        prefixes, which = np.unique(of_examples(unit, rows, "prefix"), return_inverse=True)
        found = {}
        for name, cells in zip(("grid_rows", "grid_columns"), unit.view.grids(prefixes).T, strict=True):
            found[name] = pl.Series(name, cells[which], dtype=pl.Int32)
        if "weights" in wanted:
            shares = self._shares(unit, rows, unit.view.record.extents.prefix_tokens)
            places, length = unit.view.image_tokens(prefixes), unit.view.map_length
            found["weights"] = _image_weights(shares, places, which, length)
        return {name: series for name, series in found.items() if name in wanted}

    def _suffix_array(self, view: RunView) -> str | None:
        return super()._suffix_array(view) or (READOUT if view.keeps(READOUT) else None)


def _image_weights(
    shares: np.ndarray, places: Sequence[np.ndarray], which: np.ndarray, length: int | None
) -> pl.Series:
    """places: of each prefix's image tokens; which: the prefix of each row; length: how many all have, if known."""
    lengths = np.array([len(own) for own in places])
    if length is None:
        picked = [share[places[prefix]] for share, prefix in zip(shares, which.tolist(), strict=True)]
        flat = np.concatenate(picked) if picked else np.empty(0, np.float32)
        return _lists("weights", flat, lengths[which])
    if (lengths != length).any():
        raise VlmlakeError(f"an image has {lengths[lengths != length][0]} tokens, others of as long a prefix {length}")
    where = np.stack(places)[which] if len(which) else np.empty((0, length), int)
    return vectors("weights", np.take_along_axis(shares, where, axis=1))


def _readout_places(view: RunView, numbers: np.ndarray) -> np.ndarray:
    """Places on the position axis of tokens by their numbers in token_rows; -1 for those that are not kept."""
    labels = (PROMPT_LAST, *position_names(view.record.extents.tokens)[1:])
    kept = np.array([view.record.positions.index(label) if label in view.record.positions else -1 for label in labels])
    return np.where(numbers < PROMPT, -1, kept[numbers - PROMPT])


def _lists(name: str, flat: np.ndarray, lengths: np.ndarray) -> pl.Series:
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    arrays = pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(flat, pa.float32()))
    return pl.Series(name, arrays)
