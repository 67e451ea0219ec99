"""From one block's stored rows to the numbers of each example's image attention, a cache's worth at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vlmlake.analysis.attention.rows import LAST, Given, Piece, given, refuse
from vlmlake.analysis.attention.structure import METRICS, entropy, normalised, structure

ANSWER = "answer"
PROMPT_LAST = "prompt_last"
SHARES = ("image_mass", "text_mass", "sink_mass")
"""What of a whole row, mean over heads, lies on the image, on the first token of the sequence (the attention sink of
Xiao et al. 2023, StreamingLLM, section 3.1), and on all other tokens that are no image. The three sum to 1, but where
the sequence begins with the image (PaliGemma): there the sink is a patch, and counted in both."""

EXAMPLE_METRICS = (*METRICS, *SHARES)
HEAD_METRICS = ("entropy_normalised", "image_mass")


@dataclass(frozen=True)
class Numbers:
    """Of one piece of examples at one block. examples: [kinds, EXAMPLE_METRICS, n], float64. heads: [kinds,
    HEAD_METRICS, n, H], float32. NaN where an example has no such query.
    """

    examples: np.ndarray
    heads: np.ndarray


def numbers(piece: Piece, layer: str, blocks: Sequence[np.ndarray]) -> Numbers:
    """Every number of a piece's examples at one block.

    The map of a kind of query is the mean over its queries (the answer's tokens, or prompt_last) and, but for the
    numbers of single heads, over heads; it is divided by its sum over the image.

    blocks: as `rows.given` takes them, with the axis `layer` of length 1 (and `position`, where they have it).

    Raises VlmlakeError if a row does not sum to 1, looks ahead or holds negative weights, or if the image is given
    nothing at all.
    """
    flat = [block.reshape(_without_ones(block.shape, piece)) for block in blocks]
    found = np.full((len(piece.kinds), len(EXAMPLE_METRICS), len(piece)), np.nan)
    by_head = np.full((len(piece.kinds), len(HEAD_METRICS), len(piece), flat[0].shape[1]), np.nan, np.float32)
    for kind, name in enumerate(piece.kinds):
        _fill(found[kind], by_head[kind], piece, layer, flat, name)
    return Numbers(found, by_head)


def last_maps(piece: Piece, layer: str, blocks: Sequence[np.ndarray]) -> np.ndarray:
    """The piece's maps at prompt_last, mean over heads, divided by their sum over the image.

    blocks: as in `numbers`. Returns [n, W], float32, 0 where there is no patch.

    Raises VlmlakeError as `numbers`.
    """
    flat = [block.reshape(_without_ones(block.shape, piece)) for block in blocks]
    maps = np.zeros((len(piece), piece.width), np.float32)
    for cut in piece.parts(flat[0].shape[1] * flat[0].shape[-1] * flat[0].itemsize):
        part = np.arange(cut.start, cut.stop)
        maps[part], shares, _ = _reduced(piece, layer, part, given(piece, layer, flat, part, LAST))
        _refuse_no_image(shares, piece, part, layer)
    return maps


def _refuse_no_image(shares: np.ndarray, piece: Piece, part: np.ndarray, layer: str) -> None:
    nothing = np.logical_not(shares[SHARES.index("image_mass")] > 0)
    refuse(nothing, piece, part, layer, "give the image nothing at all")


def _fill(
    found: np.ndarray, by_head: np.ndarray, piece: Piece, layer: str, blocks: Sequence[np.ndarray], kind: str
) -> None:
    """Write one kind's numbers to where it has a query. found: [EXAMPLE_METRICS, n]. by_head: [HEAD_METRICS, n, H]."""
    asked = _asked(piece, kind)
    if not asked.any():
        return
    maps = np.zeros((len(piece), piece.width), np.float32)
    shares = found[len(METRICS) :]
    for cut in piece.parts(blocks[0].shape[1] * blocks[0].shape[-1] * blocks[0].itemsize):
        part = np.arange(cut.start, cut.stop)[asked[cut]]
        if len(part):
            rows = _of_answer(piece, layer, blocks, part) if kind == ANSWER else given(piece, layer, blocks, part, LAST)
            maps[part], shares[:, part], by_head[:, part] = _reduced(piece, layer, part, rows)
    where = np.flatnonzero(asked)
    _refuse_no_image(shares[:, where], piece, where, layer)
    if len(where) == len(piece):
        found[: len(METRICS)] = structure(maps, piece.grids)
    else:
        found[: len(METRICS), where] = structure(maps[where], piece.grids.some(where))


def _asked(piece: Piece, kind: str) -> np.ndarray:
    """[n], true at examples that have a query of the kind."""
    if kind == PROMPT_LAST:
        return np.ones(len(piece), bool)
    return _kept_answers(piece, np.arange(len(piece))) > 0


def _kept_answers(piece: Piece, part: np.ndarray) -> np.ndarray:
    """[n], how many of the answer's tokens have stored rows."""
    counts: np.ndarray = (piece.answers[part][:, None] >= np.array(piece.answer_queries, int)).sum(axis=1)
    return counts


def _without_ones(shape: tuple[int, ...], piece: Piece) -> tuple[int, ...]:
    """[example, layer, head, query, key] without its layer, or [example, layer, head, position, key] without both."""
    return (shape[0], *shape[2:]) if piece.suffix is not None else (shape[0], shape[2], shape[4])


def _of_answer(piece: Piece, layer: str, blocks: Sequence[np.ndarray], part: np.ndarray) -> Given:
    """The mean over each example's own answer tokens, those that are kept."""
    answers, (number, *others) = piece.answers[part], piece.answer_queries
    first = given(piece, layer, blocks, part, number)
    count = _kept_answers(piece, part)
    if (count == 1).all():
        return first
    weights, sink = first.weights.copy(), first.sink.copy()
    for number in others:
        longer = answers >= number
        if longer.any():
            more = given(piece, layer, blocks, part[longer], number)
            weights[longer] += more.weights
            sink[longer] += more.sink
    weights /= count[:, None, None].astype(np.float32)
    return Given(weights, sink / count)


def _reduced(piece: Piece, layer: str, part: np.ndarray, rows: Given) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Maps of the mean head, [n, W], of sum 1; their SHARES, [SHARES, n]; the HEAD_METRICS, [HEAD_METRICS, n, H]."""
    width, heads = piece.width, rows.weights.shape[1]
    mass = rows.weights @ np.ones(width, np.float32)
    spread = entropy(rows.weights, mass)
    # a negative weight has no logarithm
    refuse(np.any(np.isnan(spread) & (mass != 0), axis=1), piece, part, layer, "hold negative weights")
    maps = (np.full((1, heads), 1 / heads, np.float32) @ rows.weights)[:, 0]
    with np.errstate(invalid="ignore"):
        maps = maps / maps.sum(axis=1, keepdims=True)
    image, sink = mass.mean(axis=1, dtype=np.float64), rows.sink.astype(np.float64)
    text = np.maximum(0, 1 - image - np.where(piece.image[part, 0], 0, sink))
    return maps, np.stack([image, text, sink]), np.stack([normalised(spread, piece.grids.sizes[part][:, None]), mass])
