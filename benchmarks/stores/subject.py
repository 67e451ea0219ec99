"""The values that every way keeps, the same for all: seeded, of real entropy, made block by block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

LONGEST = 600
"""Tokens of LLaVA-1.5's prompts with the image's 576; no sequence is longer."""

POSITIONS = ("prompt_last", "answer_0")
SINK, SPREAD = 12.0, 4.0
"""Of attention's logits: what the first key has more, as in trained models, and the others' standard deviation."""


@dataclass(frozen=True)
class States:
    """Readout states of a run, float16 [example, layer, position, hidden]. batch: examples that are written together.

    Normal numbers of random mantissas, cut from one long series at a place that each batch draws for itself.
    """

    examples: int
    layers: int
    hidden: int
    batch: int

    @property
    def one(self) -> int:
        """Bytes of one layer and position of all examples in float16."""
        return self.examples * self.hidden * 2

    def first(self, examples: int) -> States:
        """The same, the first `examples` of them alone."""
        return States(min(examples, self.examples), self.layers, self.hidden, self.batch)

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Batch after batch: its first example, and its values."""
        for start in range(0, self.examples, self.batch):
            rows = min(self.batch, self.examples - start)
            yield start, self._block(start)[:rows]

    def at(self, layer: int) -> np.ndarray:
        """[example, hidden] of one layer at the first position."""
        return np.concatenate([block[:, layer, 0] for _, block in self.blocks()])

    def sequences(self, tokens: int) -> Iterator[np.ndarray]:
        """Of each example what a plain forward gives: [layer, token, hidden], the first position at the last token."""
        before = self._series[: self.layers * tokens * self.hidden]
        whole = before.reshape(self.layers, tokens, self.hidden).copy()
        for _, block in self.blocks():
            for row in block:
                whole[:, -1] = row[:, 0]
                yield whole

    def _block(self, start: int) -> np.ndarray:
        shape = (self.batch, self.layers, len(POSITIONS), self.hidden)
        size = int(np.prod(shape))
        first = np.random.default_rng(start).integers(self._series.size - size)
        return self._series[first : first + size].reshape(shape)

    @cached_property
    def _series(self) -> np.ndarray:
        length = max(2 * self.batch * len(POSITIONS), LONGEST) * self.layers * self.hidden
        return _noise(length)


def hidden_states(examples: int, layers: int, tokens: int, hidden: int) -> np.ndarray:
    """A batch of them, float16 [example, layer, token, hidden]."""
    return _noise(examples * layers * tokens * hidden).reshape(examples, layers, tokens, hidden)


def attention(examples: int, layers: int, heads: int, queries: int, keys: int) -> np.ndarray:
    """A batch of softmax rows, float16 [example, layer, head, query, key]; a query sees no later query's key."""
    logits = SPREAD * np.random.default_rng(1).standard_normal((examples, layers, heads, queries, keys), np.float32)
    logits[..., 0] += SINK
    logits[..., keys - queries :][..., np.triu(np.ones((queries, queries), bool), 1)] = -np.inf
    logits -= logits.max(-1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(-1, keepdims=True)
    return logits.astype(np.float16)


def _noise(length: int) -> np.ndarray:
    values = np.empty(length, np.float16)
    draw = np.random.default_rng(0)
    for start in range(0, length, 1 << 20):
        piece = values[start : start + (1 << 20)]
        piece[:] = draw.standard_normal(len(piece), np.float32)
    return values
