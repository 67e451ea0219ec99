"""The logit lens, blockwise over the vocabulary: [examples, vocab] of logits never exists, let alone for all layers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vlmlake.answers.spellings import NONE

ROWS, COLUMNS = 512, 1024
"""Examples and tokens of one block: 2 MiB of logits, which the passes over them find in the processor's cache."""

FIELDS = (
    "margin_gold",
    "margin_pred",
    "rank_gold",
    "lens_entropy",
    "lens_log_prob_gold",
    "yes_minus_no",
    "gold_token",
    "other_token",
)
"""What `lens` returns, in order."""

_HIDDEN = np.float32(-1e30)
"""In the place of a logit that the stream over the others must not see: its exponential is 0 beside any other."""
_FLOOR = np.float32(-5e29)


def normed(states: np.ndarray, scale: np.ndarray, epsilon: float) -> np.ndarray:
    """The final RMS norm (Zhang and Sennrich 2019), applied once: x / sqrt(mean x^2 + epsilon) * scale.

    states: [g, hidden], the residual stream before it. scale: [hidden]. Returns [g, hidden], float32.
    """
    states = np.asarray(states, np.float32)
    result: np.ndarray = states / rms(states, epsilon) * np.asarray(scale, np.float32)
    return result


def rms(states: np.ndarray, epsilon: float) -> np.ndarray:
    """What the norm divides by. Returns [g, 1], float32."""
    squares = np.mean(np.square(states, dtype=np.float64), axis=1, keepdims=True)
    roots: np.ndarray = np.sqrt(squares + epsilon).astype(np.float32)
    return roots


def lens(
    states: np.ndarray,
    scale: np.ndarray,
    epsilon: float,
    unembedding: np.ndarray,
    gold: np.ndarray,
    said: np.ndarray,
    words: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
    """The logit lens (nostalgebraist 2020) of one layer's residual stream, summed up for every example.

    states: [g, hidden]. scale, epsilon: of the final norm. unembedding: [vocab, hidden], float32. gold: [g, s], ids of
    the gold answer's spellings, NONE beyond their number. said: [g], id of the model's own token, or NONE. words: ids
    of the spellings of yes, and of no.

    Returns [fields, g], float64, the FIELDS:
    margin_gold: largest logit of the gold's spellings minus the largest of all other tokens. margin_pred: logit of
    `said` minus the largest of all other tokens. rank_gold: 1 + the number of other tokens above the gold's best.
    lens_entropy: of softmax(logits), nats. lens_log_prob_gold: ln of the gold's spellings' summed probability.
    yes_minus_no: ln of the summed probability of yes's spellings minus no's. gold_token, other_token: ids of the gold's
    best spelling and of the best other token. NaN where an example has no gold, no `said`, or a word has no spelling.
    """
    unembedding = np.asarray(unembedding, np.float32)
    found = np.empty((len(FIELDS), len(states)))
    for start in range(0, len(states), ROWS):
        rows = slice(start, start + ROWS)
        hidden = normed(states[rows], scale, epsilon)
        with np.errstate(invalid="ignore"):  # states that are no numbers give NaN, which Readouts refuses by name
            found[:, rows] = _lens_of_rows(hidden, unembedding, gold[rows], said[rows], words)
    return found


def _lens_of_rows(
    rows: np.ndarray,
    unembedding: np.ndarray,
    gold: np.ndarray,
    said: np.ndarray,
    words: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
    """Gold's spellings and `said` are looked at by name; everything else streams by, and the two are put together."""
    own = np.where((gold == said[:, None]).any(axis=1), NONE, said)[:, None]
    named = np.concatenate([gold, own], axis=1)
    logits = _Named(rows, unembedding, [named, said[:, None], *words]).of
    of_gold, of_said = logits(gold), logits(said[:, None])[:, 0]
    best = of_gold.max(axis=1)
    top, token, log_total, mean, above = _stream(rows, unembedding, named, best)

    own_logit = logits(own)[:, 0]
    other = np.maximum(top, own_logit)
    besides_said = np.maximum(top, np.where(gold == said[:, None], -np.inf, of_gold).max(axis=1))
    parts = np.concatenate([of_gold, own_logit[:, None]], axis=1)
    log_all = np.logaddexp(log_total, np.logaddexp.reduce(parts, axis=1))
    shares = np.exp(parts - log_all[:, None])
    expected = np.exp(log_total - log_all) * mean + (shares * np.where(shares > 0, parts, 0)).sum(axis=1)
    yes, no = (np.logaddexp.reduce(logits(np.tile(word, (len(rows), 1))), axis=1) for word in words)
    has_gold, has_said = (gold != NONE).any(axis=1), said != NONE
    return np.stack(
        [
            np.subtract(best, other, out=_nothing(rows), where=has_gold),
            np.subtract(of_said, besides_said, out=_nothing(rows), where=has_said),
            np.where(has_gold, 1.0 + above + (own_logit > best), np.nan),
            log_all - expected,
            np.subtract(np.logaddexp.reduce(of_gold, axis=1), log_all, out=_nothing(rows), where=has_gold),
            np.subtract(yes, no, out=_nothing(rows), where=np.isfinite(yes) & np.isfinite(no)),
            np.where(has_gold, gold[np.arange(len(gold)), of_gold.argmax(axis=1)], np.nan),
            np.where(own_logit > top, said, token),
        ]
    )


def _nothing(rows: np.ndarray) -> np.ndarray:
    return np.full(len(rows), np.nan)


class _Named:
    """Logits of the tokens that are asked for by name: one small product for all of them."""

    def __init__(self, rows: np.ndarray, unembedding: np.ndarray, ids: Sequence[np.ndarray]) -> None:
        self._ids = np.unique(np.concatenate([part.ravel() for part in ids]))
        self._ids = self._ids[self._ids != NONE]
        self._logits = (rows @ unembedding[self._ids].T).astype(np.float64)

    def of(self, ids: np.ndarray) -> np.ndarray:
        """ids: [g, s]. Returns [g, s], float64, -inf where there is none."""
        if not len(self._ids):
            return np.full(ids.shape, -np.inf)
        places = np.searchsorted(self._ids, np.maximum(ids, self._ids[0]))
        return np.where(ids == NONE, -np.inf, np.take_along_axis(self._logits, places, axis=1))


def _stream(
    rows: np.ndarray, unembedding: np.ndarray, named: np.ndarray, bar: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """One pass over the vocabulary without the named tokens.

    rows: [g, hidden], normed. named: [g, s], ids to leave out. bar: [g]. Returns, each [g]: the largest logit, its
    token, ln of the sum of exponentials, the mean logit under them, how many logits are above the bar.
    """
    count, vocab = len(rows), len(unembedding)
    top, token = np.full(count, _FLOOR), np.full(count, NONE)
    total, weighted, above = np.zeros(count), np.zeros(count), np.zeros(count, np.int64)
    bar = bar.astype(np.float32)[:, None]
    room, powers = np.empty((2, count, min(COLUMNS, vocab)), np.float32)
    higher = np.empty(room.shape, bool)
    hidden_rows, hidden_columns = _by_column(named)
    edges = np.searchsorted(hidden_columns, np.arange(0, vocab + COLUMNS, COLUMNS))
    for number, first in enumerate(range(0, vocab, COLUMNS)):
        block = unembedding[first : first + COLUMNS]
        logits, power = room[:, : len(block)], powers[:, : len(block)]
        np.matmul(rows, block.T, out=logits)
        here = slice(edges[number], edges[number + 1])
        logits[hidden_rows[here], hidden_columns[here] - first] = _HIDDEN
        place = logits.argmax(axis=1)
        largest = logits[np.arange(count), place]
        above += np.count_nonzero(np.greater(logits, bar, out=higher[:, : len(block)]), axis=1)
        token = np.where(largest > top, place + first, token)
        # Sums are kept relative to the largest logit so far: sum e^y and sum y e^y with y = logit - top.
        risen = np.maximum(top, largest)
        shift = top.astype(np.float64) - risen
        logits -= risen[:, None]
        np.exp(logits, out=power)
        weighted = np.exp(shift) * (weighted + shift * total) + np.vecdot(logits, power)
        total = np.exp(shift) * total + power.sum(axis=1)
        top = risen
    some = total > 0
    log_total = np.add(top, np.log(total, where=some, out=np.zeros(count)), where=some, out=np.full(count, -np.inf))
    mean = np.add(top, np.divide(weighted, total, where=some, out=np.zeros(count)), where=some, out=np.zeros(count))
    return np.where(some, top, -np.inf), token, log_total, mean, above


def _by_column(named: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the ids that there are, columns ascending."""
    rows, places = np.nonzero(named != NONE)
    columns = named[rows, places]
    order = np.argsort(columns, kind="stable")
    return rows[order], columns[order]
