"""The attention that one block's stored rows give to each image patch, and the guards that refuse rows that cannot be.

A softmax row sums to 1, gives nothing to later tokens, and gives the image something; where one does not, the store is
damaged and the analysis says so: no uniform map is ever put in its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vlmlake.analysis.attention.clusters import Grids
from vlmlake.errors import VlmlakeError

CACHED_BYTES = 1 << 21
"""About as much of the rows is worked on at a time: it stays in a core's cache from one step to the next."""

LAST = 0
"""Number of the query at prompt_last; t + 1 is that of answer token t."""


@dataclass(frozen=True)
class Piece:
    """Neighbouring examples of a run, what their rows are asked for, and where their images lie among the keys.

    examples: [n], ids. places: [n], where each lies in the blocks. answers: [n], tokens of each answer. kinds: of
    queries that are asked for. queries: numbers of those that are kept. seen: [n, P], true at the tokens that each
    prefix has. image: [n, P], those that are patches; first, last: all of them lie from `first` to before `last`.
    grids: of the places between. tolerance: how far a row's sum may be from 1. suffix: [n], place of prompt_last among
    the suffix's tokens, if the rows go over the suffix too; first_query: place of a block's first query, then.
    """

    examples: np.ndarray
    places: np.ndarray
    answers: np.ndarray
    kinds: tuple[str, ...]
    queries: tuple[int, ...]
    seen: np.ndarray
    image: np.ndarray
    first: int
    last: int
    grids: Grids
    tolerance: float
    suffix: np.ndarray | None = None
    first_query: int = 0

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def answer_queries(self) -> tuple[int, ...]:
        """Numbers of the queries at the answer's tokens."""
        return tuple(number for number in self.queries if number != LAST)

    @property
    def width(self) -> int:
        """W, places between the first patch and the last of all."""
        return self.last - self.first

    def parts(self, example_bytes: int) -> Iterator[slice]:
        """Slices of the examples that a core's cache holds."""
        step = max(1, CACHED_BYTES // example_bytes)
        return (slice(start, min(start + step, len(self))) for start in range(0, len(self), step))


@dataclass(frozen=True)
class Given:
    """What some examples' rows give to the image. weights: [n, H, W], float32, 0 where there is no patch; not to be
    written to. sink: [n], mean over heads of what goes to the first token of the sequence.
    """

    weights: np.ndarray
    sink: np.ndarray


def given(piece: Piece, layer: str, blocks: Sequence[np.ndarray], part: np.ndarray, number: int) -> Given:
    """What the examples `part` (places in the piece) give to the image from query `number`.

    blocks: the stored rows of one layer: one [examples, H, queries, P + T], or for each of the piece's queries one
    [examples, H, P].

    Raises VlmlakeError if a row does not sum to 1, or looks ahead.
    """
    prefix = piece.seen.shape[1]
    if piece.suffix is None:
        rows = blocks[piece.queries.index(number)][_together(piece.places[part])]
        over_suffix: np.ndarray | float = 0.0
    else:
        rows, over_suffix = _whole_rows(piece, layer, blocks[0], part, number)
    rows = rows[..., :prefix]
    seen = piece.seen[part]
    there = rows if seen.all() else np.where(seen[:, None], rows, 0)
    sums = there @ np.ones(prefix, np.float32) + over_suffix
    # written so that a sum that is no number is refused too
    fits = sums <= 1 + piece.tolerance
    if piece.suffix is not None:
        fits &= sums >= 1 - piece.tolerance
    refuse(np.any(np.logical_not(fits), axis=1), piece, part, layer, "do not sum to 1")
    image = piece.image[part, piece.first : piece.last]
    weights = rows[..., piece.first : piece.last]
    if not image.all():
        weights = np.where(image[:, None], weights, np.float32(0))
    return Given(weights, rows[..., 0].mean(axis=1))


def _whole_rows(
    piece: Piece, layer: str, block: np.ndarray, part: np.ndarray, number: int
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of one query, [n, H, P + T], and what they give to the suffix's tokens up to their own, [n, H].

    Raises VlmlakeError if a row gives anything to a token after its own.
    """
    assert piece.suffix is not None
    query = piece.suffix[part] + number
    places = piece.places[part]
    if (query == query[0]).all():
        rows = block[_together(places), :, query[0] - piece.first_query]
    else:
        rows = block[places, :, query - piece.first_query]
    suffix = rows[..., piece.seen.shape[1] :]
    before = np.arange(suffix.shape[-1]) <= query[:, None]
    ahead = np.where(before[:, None], 0, suffix) > 0
    refuse(np.any(ahead, axis=(1, 2)), piece, part, layer, "look at tokens after their own")
    return rows, np.where(before[:, None], suffix, 0).sum(axis=-1)


def _together(places: np.ndarray) -> slice | np.ndarray:
    """Neighbours as a slice, which copies nothing."""
    if len(places) and (np.diff(places) == 1).all():
        return slice(int(places[0]), int(places[-1]) + 1)
    return places


def refuse(wrong: np.ndarray, piece: Piece, part: np.ndarray, layer: str, what: str) -> None:
    """Raises VlmlakeError naming the first of these examples that is wrong, if one is. wrong: [n]."""
    if wrong.any():
        example = piece.examples[part][np.argmax(wrong)]
        raise VlmlakeError(f"attention rows of example {example} at {layer} {what}: the store is damaged")


def require_tolerance(tolerance: float) -> None:
    """Raises VlmlakeError for what no softmax row's sum, rounded, could keep. tolerance: of its distance from 1."""
    if not 0 < tolerance < 1:
        raise VlmlakeError(f"row_sum_tolerance is {tolerance}, expected above 0 and below 1")
