"""How much attention prompt_last gives to each patch of its image, out of the store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import dask
import numpy as np
import xarray as xr

from vlmlake.errors import NotKeptError, VlmlakeError
from vlmlake.ingest.interventions.masks.stored_images import example_places, stored_images
from vlmlake.ingest.interventions.requests.masking import Reduction, attention_layer, require_reduction
from vlmlake.store_schema.run import Run
from vlmlake.store_schema.schema import PROMPT_LAST

WHOLE, READOUT = "attention", "readout_attention"


def image_attention(
    run: Run, examples: Sequence[str], layer: str | None = None, reduction: Reduction = "mean"
) -> dict[str, np.ndarray]:
    """By example what prompt_last gives to each patch, [S], float32, row by row: shares of the whole softmax row, mean
    (or largest) of the heads, not divided by their sum over the image.

    layer: a label as `block_31`, the last block that the run keeps where none is named. Nothing else is read; examples
    of equal image and question are one row of the store, read once.

    Raises NotKeptError if the run keeps no attention, UnknownNameError for a layer or an example that it does not have,
    and VlmlakeError naming the example whose row is not finite or gives the image nothing.
    """
    require_reduction(reduction)
    data = run.dataset()
    rows = _kept(run, data)
    label = attention_layer(run, layer)
    asked = example_places(run, data, examples)
    _, first, inverse = np.unique(data["row"].values[asked], return_index=True, return_inverse=True)
    # In the order of the store, so that neighbours are read together.
    places = asked[first]
    tokens = [image.places for image in stored_images(data, places)]
    read = []
    for part in _neighbours(places, rows):
        neighbours = places[part]
        suffix = data["suffix_tokens"].values[neighbours] - 1
        piece = _Piece(data["example"].values[neighbours], suffix, tokens[part], label, reduction)
        read.append(dask.delayed(piece.weights)(_block(rows, neighbours, piece)))  # type: ignore[attr-defined]
    found = [weights for part in dask.compute(*read) for weights in part]  # type: ignore[attr-defined,no-untyped-call]
    return {example: found[place] for example, place in zip(examples, inverse.tolist(), strict=True)}


@dataclass(frozen=True)
class _Piece:
    """Neighbouring examples of the store. suffix: [n], place of prompt_last among their own tokens. tokens: for each
    the places of its patches among the keys, row by row.
    """

    examples: np.ndarray
    suffix: np.ndarray
    tokens: Sequence[np.ndarray]
    layer: str
    reduction: Reduction

    @property
    def queries(self) -> slice:
        """Those that the block has, of an array of whole rows."""
        return slice(int(self.suffix.min()), int(self.suffix.max()) + 1)

    def weights(self, block: np.ndarray) -> list[np.ndarray]:
        """block: [n, heads, queries, keys], or [n, heads, keys] where prompt_last's rows alone are kept."""
        return [self._of(place, block[place]) for place in range(len(self.examples))]

    def _of(self, place: int, rows: np.ndarray) -> np.ndarray:
        if rows.ndim == 3:
            rows = rows[:, self.suffix[place] - self.suffix.min()]
        heads = rows[:, self.tokens[place]].astype(np.float32)
        where = f"attention rows of example {self.examples[place]} at {self.layer}"
        if not np.isfinite(heads).all():
            raise VlmlakeError(f"{where} are not finite: the store is damaged")
        weights: np.ndarray = heads.mean(axis=0) if self.reduction == "mean" else heads.max(axis=0)
        if not weights.sum() > 0:
            raise VlmlakeError(f"{where} give the image nothing: its patches cannot be ranked")
        return weights


def _kept(run: Run, data: xr.Dataset) -> xr.DataArray:
    for name in (WHOLE, READOUT):
        if name in data:
            return data[name]
    raise NotKeptError(
        f"run {run.name} keeps no {WHOLE} and no {READOUT}: run `vlmlake extract` with a plan that has one, as suffix "
        "or readout"
    )


def _neighbours(places: np.ndarray, rows: xr.DataArray) -> Iterator[slice]:
    """Slices of the places that follow one another in one of the store's reads."""
    ends = np.cumsum(rows.chunksizes["example"])
    read = np.searchsorted(ends, places, side="right")
    cuts = np.flatnonzero((np.diff(places) != 1) | (np.diff(read) != 0)) + 1
    edges = [0, *cuts.tolist(), len(places)]
    return (slice(start, end) for start, end in pairwise(edges) if end > start)


def _block(rows: xr.DataArray, places: np.ndarray, piece: _Piece) -> object:
    """The stored rows of these places, not read yet."""
    which = {"query": piece.queries} if rows.name == WHOLE else {"position": _position(rows)}
    # One selection, by slices: Dask hands no other on to the store.
    at = list(rows["layer"].values).index(piece.layer)
    cut = rows.isel(example=slice(int(places[0]), int(places[-1]) + 1), layer=at, **which)
    return cut.data.to_delayed().item()


def _position(rows: xr.DataArray) -> int:
    return list(rows["position"].values).index(PROMPT_LAST)
