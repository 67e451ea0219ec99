"""Tasks over the stored rows: one for each piece of examples and block, each of which reads its rows once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import dask
import numpy as np
import xarray as xr

from vlmlake.analysis.attention.clusters import Grids
from vlmlake.analysis.attention.maps import ANSWER, EXAMPLE_METRICS, HEAD_METRICS, PROMPT_LAST, last_maps, numbers
from vlmlake.analysis.attention.prefixes import prefix_places
from vlmlake.analysis.attention.rows import LAST, Piece
from vlmlake.analysis.blocks import computed, example_pieces
from vlmlake.analysis.contract import kept_array
from vlmlake.errors import VlmlakeError
from vlmlake.store_schema.schema import EMBED, IMAGE
from vlmlake.store_schema.schema import PROMPT_LAST as FIRST_POSITION

WHOLE, READOUT = "attention", "readout_attention"


@dataclass(frozen=True)
class Attention:
    """Every number of every example of a run.

    kinds: of queries. layers: names of the blocks. examples: [kinds, EXAMPLE_METRICS, n, L], float64. heads: [kinds,
    HEAD_METRICS, n, L, H], float32. NaN where an example has no such query.
    """

    kinds: tuple[str, ...]
    layers: tuple[str, ...]
    examples: np.ndarray
    heads: np.ndarray


def attention_numbers(data: xr.Dataset, tolerance: float) -> Attention:
    """Read the rows of all queries that are asked for once, and reduce them. tolerance: how far a row's sum may be from
    1.

    Equal (image, question) pairs of several splits are one row of the store and are computed once.

    Raises VlmlakeError if the run keeps no attention, or stored rows are damaged.
    """
    rows = _Rows.of(data, tolerance)
    n, heads, blocks = data.sizes["example"], rows.array.sizes["head"], rows.blocks
    examples = np.full((len(rows.kinds), len(EXAMPLE_METRICS), n, len(blocks)), np.nan)
    by_head = np.full((len(rows.kinds), len(HEAD_METRICS), n, len(blocks), heads), np.nan, np.float32)
    for place, layer, inverse, _, found in rows.reduced(numbers, data["row"].values):
        examples[:, :, place, layer] = found.examples[:, :, inverse]
        by_head[:, :, place, layer] = found.heads[:, :, inverse]
    return Attention(rows.kinds, blocks, examples, by_head)


def image_maps(data: xr.Dataset, tolerance: float) -> xr.DataArray:
    """Attention of prompt_last to each image token, mean over heads, divided by its sum over the image.

    tolerance: how far a row's sum may be from 1. Returns [example, layer, prefix_token], float32 in memory, blocks
    only, 0 at tokens that are no image.

    Raises VlmlakeError if the run keeps no attention, or stored rows are damaged.
    """
    rows = _Rows.of(data, tolerance)
    maps = np.zeros((data.sizes["example"], len(rows.blocks), rows.role.shape[1]), np.float32)
    for place, layer, inverse, piece, found in rows.reduced(last_maps, data["row"].values):
        maps[place, layer, piece.first : piece.last] = found[inverse]
    labels = {"example": data["example"].values, "layer": list(rows.blocks)}
    return xr.DataArray(maps, labels, ("example", "layer", "prefix_token"))


@dataclass(frozen=True)
class _Rows:
    """The stored rows of a run, cut by block (and position), and what is known of each example's tokens.

    queries: numbers of the queries that are kept, none if all are. role, row, column: [prefixes, P], of the prefix's
    tokens; prefix: [n], the place of each example's own.
    """

    array: xr.DataArray
    tolerance: float
    queries: tuple[int, ...] | None
    examples: np.ndarray
    answers: np.ndarray
    suffix: np.ndarray
    role: np.ndarray
    row: np.ndarray
    column: np.ndarray
    prefix: np.ndarray

    @classmethod
    def of(cls, data: xr.Dataset, tolerance: float) -> _Rows:
        name = kept_array(data, WHOLE, READOUT)
        array = data[name]
        cut = {dimension: 1 if dimension in ("layer", "position") else -1 for dimension in array.dims}
        cut["example"] = "auto" if array.chunks is None else array.chunksizes["example"]  # type: ignore[assignment]
        names = [str(position) for position in data["position"].values] if name == READOUT else None
        tokens = data[["prefix_token_role", "image_row", "image_column"]].compute()
        return cls(
            array=array.chunk(cut),
            tolerance=tolerance,
            queries=tuple(map(_number, names)) if names is not None else None,
            examples=data["example"].values,
            answers=data["answer_tokens"].values,
            suffix=data["suffix_tokens"].values - 1,
            role=tokens["prefix_token_role"].values,
            row=tokens["image_row"].values,
            column=tokens["image_column"].values,
            prefix=prefix_places(data),
        )

    @property
    def blocks(self) -> tuple[str, ...]:
        """Labels of the layers that have rows."""
        return tuple(str(name) for name in self.array["layer"].values if name != EMBED)

    def reduced(
        self, reduce: Callable[[Piece, str, Sequence[np.ndarray]], Any], row: np.ndarray
    ) -> Iterator[tuple[slice, int, np.ndarray, Piece, Any]]:
        """What a function makes of each piece and block: the piece's place on the example axis, the block's number
        among `blocks`, for each example there its place in the piece, the piece, and the function's result.

        row: [n], of the store, of each example: those of equal rows are reduced once.
        """
        there = list(self.array["layer"].values)
        tasks, filled = [], []
        for place, _ in example_pieces(self.array):
            _, first, inverse = np.unique(row[place], return_index=True, return_inverse=True)
            piece = self.piece(place, first)
            shared = dask.delayed(piece, traverse=False)  # type: ignore[attr-defined]
            stored = self.stored(place, piece)
            for layer, name in enumerate(self.blocks):
                task = dask.delayed(reduce, pure=False)  # type: ignore[attr-defined]
                tasks.append(task(shared, name, stored[there.index(name)]))
                filled.append((place, layer, inverse, piece))
        return ((*place, found) for place, found in zip(filled, computed(tasks), strict=True))

    @property
    def kinds(self) -> tuple[str, ...]:
        """A plan may have kept the readout's attention at prompt_last alone."""
        return (ANSWER, PROMPT_LAST) if self.queries is None or len(self.queries) > 1 else (PROMPT_LAST,)

    def piece(self, place: slice, chosen: np.ndarray) -> Piece:
        """The examples at these places of a slice of all."""
        of_all = np.arange(len(self.examples))[place][chosen]
        answers, suffix, prefix = self.answers[of_all], self.suffix[of_all], self.prefix[of_all]
        image = self.role[prefix] == IMAGE
        without = ~image.any(axis=1)
        if without.any():
            raise VlmlakeError(f"example {self.examples[of_all][np.argmax(without)]} has no image tokens")
        there = np.flatnonzero(image.any(axis=0))
        first, last = int(there[0]), int(there[-1]) + 1
        within = slice(first, last)
        kept = range(int(answers.max()) + 1) if self.queries is None else self.queries
        return Piece(
            examples=self.examples[of_all],
            places=chosen,
            answers=answers,
            kinds=self.kinds,
            queries=tuple(number for number in kept if number <= answers.max()),
            seen=self.role[prefix] >= 0,
            image=image,
            first=first,
            last=last,
            grids=Grids.of(self.row[prefix, within], self.column[prefix, within], image[:, within]),
            tolerance=self.tolerance,
            suffix=suffix if self.queries is None else None,
            first_query=int(suffix.min()),
        )

    def stored(self, place: slice, piece: Piece) -> list[list[Any]]:
        """For each layer the delayed blocks that hold the piece's rows; only those queries are read."""
        if self.queries is None:
            assert piece.suffix is not None
            asked = slice(piece.first_query, int((piece.suffix + piece.answers).max()) + 1)
            # one selection, since Dask hands on to the store only the first that is made
            cut = self.array.isel(example=place, query=asked).data.to_delayed()
            return [[block.item()] for block in cut[0]]
        cut = self.array.isel(example=place).data.to_delayed()
        numbers = [self.queries.index(number) for number in piece.queries]
        return [[block.item(number) for number in numbers] for block in cut[0]]


def _number(position: str) -> int:
    """Of the query at a position: LAST at prompt_last, t + 1 at answer token t."""
    return LAST if position == FIRST_POSITION else int(position.rpartition("_")[2]) + 1
