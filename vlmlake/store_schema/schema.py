"""The arrays of a run: names, dimensions, dtypes and chunks. One table, one place.

Every array is allocated once at its planned size and never resized. Along `example` (or `prefix`) one shard holds one
batch, so one batch is one writer; inside the shard, chunks of about CHUNK_BYTES follow the way the array is read.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import ceil, prod
from typing import Literal

import ml_dtypes
import numpy as np

FORMAT_VERSION = 4
"""Version of everything on disk; written to lake.json."""

CHUNK_BYTES = 128 * 1024
TOKENS_A_CHUNK = 16
ONCE_CHUNK_BYTES = 1024 * 1024

STORED_DTYPES = ("float16", "bfloat16", "float32")
ROLES = ("system", "image", "question", "cue", "answer")
"""What a token is for; arrays hold the position in this tuple, -1 where there is no token."""
SYSTEM, IMAGE, QUESTION, CUE, ANSWER = range(len(ROLES))

EMBED = "embed"
PROMPT_LAST = "prompt_last"

Dimension = Literal[
    "example",
    "prefix",
    "layer",
    "head",
    "token",
    "prefix_token",
    "query",
    "prefix_query",
    "key",
    "position",
    "hidden",
    "vocab",
]
BATCH_DIMENSIONS: tuple[Dimension, ...] = ("example", "prefix")
"""Axes along which a shard is one batch."""

Kind = Literal["activation", "weight", "token_id", "role", "cell"]


@dataclass(frozen=True)
class Extents:
    """Planned length of every axis of a run, padding included.

    `example_rows` and `prefix_rows` are the rows that one batch (one shard) owns on the example and the prefix axis.
    `layers` and `positions` count those that the plan keeps; `tokens` counts the longest suffix with its answer.
    """

    batches: int
    example_rows: int
    prefix_rows: int
    layers: int
    heads: int
    tokens: int
    prefix_tokens: int
    positions: int
    hidden: int
    vocab: int

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 1:
                raise ValueError(f"extent {field.name} is {getattr(self, field.name)}, expected at least 1")

    def length(self, dimension: Dimension) -> int:
        """Length of the axis over the whole run."""
        lengths: dict[Dimension, int] = {
            "example": self.batches * self.example_rows,
            "prefix": self.batches * self.prefix_rows,
            "layer": self.layers,
            "head": self.heads,
            "token": self.tokens,
            "query": self.tokens,
            "prefix_token": self.prefix_tokens,
            "prefix_query": self.prefix_tokens,
            "key": self.prefix_tokens + self.tokens,
            "position": self.positions,
            "hidden": self.hidden,
            "vocab": self.vocab,
        }
        return lengths[dimension]

    def shard(self, dimension: Dimension) -> int:
        """Length of the axis inside one batch."""
        rows = {"example": self.example_rows, "prefix": self.prefix_rows}
        return rows.get(dimension) or self.length(dimension)


@dataclass(frozen=True)
class Layout:
    """What zarr is told about one array: `chunks` lie inside `shards`, and one shard is one object of the store."""

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    shards: tuple[int, ...]


@dataclass(frozen=True)
class ArraySpec:
    """One array of the format.

    kind: what its values are; a `weight` is a share of attention, between 0 and 1.
    whole: dimensions that a chunk always holds whole; tokens: dimensions cut into pieces of at most TOKENS_A_CHUNK;
    grow: dimensions that a chunk takes in, in this order, while it stays below CHUNK_BYTES. All others have length 1.
    once: written with the run and shared by all batches. blocks_only: has no values at the layer `embed`.
    """

    name: str
    dimensions: tuple[Dimension, ...]
    kind: Kind
    description: str
    whole: tuple[Dimension, ...] = ()
    tokens: tuple[Dimension, ...] = ()
    grow: tuple[Dimension, ...] = ()
    once: bool = False
    blocks_only: bool = False

    def dtype(self, stored: str) -> np.dtype[np.generic]:
        """The dtype on disk, given the run's dtype for activations."""
        names = {
            "activation": stored,
            "weight": weight_dtype(stored),
            "token_id": "int32",
            "role": "int8",
            "cell": "int16",
        }
        name = names[self.kind]
        return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)

    @property
    def is_float(self) -> bool:
        return self.kind in ("activation", "weight")

    @property
    def fill_value(self) -> float | int:
        return float("nan") if self.is_float else -1

    def layout(self, extents: Extents, stored: str) -> Layout:
        """Shape, chunks and shards for a run of these extents whose activations are stored as `stored`."""
        shard = {dimension: extents.shard(dimension) for dimension in self.dimensions}
        chunk = {dimension: self._smallest_piece(dimension, length) for dimension, length in shard.items()}
        budget = (ONCE_CHUNK_BYTES if self.once else CHUNK_BYTES) // self.dtype(stored).itemsize
        for dimension in self.grow:
            times = max(1, budget // prod(chunk.values()))
            if dimension in BATCH_DIMENSIONS:
                chunk[dimension] = _largest_divisor(shard[dimension], at_most=times)
            else:
                chunk[dimension] = _even_piece(shard[dimension], at_most=chunk[dimension] * times)
        return Layout(
            shape=tuple(extents.length(dimension) for dimension in self.dimensions),
            chunks=tuple(chunk.values()),
            shards=tuple(ceil(shard[dimension] / piece) * piece for dimension, piece in chunk.items()),
        )

    def _smallest_piece(self, dimension: Dimension, length: int) -> int:
        if dimension in self.whole:
            return length
        return _even_piece(length, at_most=TOKENS_A_CHUNK) if dimension in self.tokens else 1


def weight_dtype(stored: str) -> str:
    """The dtype of attention beside activations of a dtype: bfloat16 has range that no share needs, and float16's rows
    sum eight times closer to 1.
    """
    return "float16" if stored == "bfloat16" else stored


def _even_piece(length: int, at_most: int) -> int:
    """The smallest piece that cuts a length into as few pieces as `at_most` allows: the last one pads least."""
    return ceil(length / ceil(length / at_most))


def _largest_divisor(length: int, at_most: int) -> int:
    return next(piece for piece in range(min(length, at_most), 0, -1) if length % piece == 0)


ARRAYS: tuple[ArraySpec, ...] = (
    ArraySpec(
        "hidden_states",
        ("example", "layer", "token", "hidden"),
        "activation",
        "residual stream of the suffix's tokens: the embeddings, then after each block, before the final norm",
        whole=("hidden",),
        tokens=("token",),
        grow=("example",),
    ),
    ArraySpec(
        "prefix_states",
        ("prefix", "layer", "prefix_token", "hidden"),
        "activation",
        "residual stream of the prefix's tokens (system and image), stored once for all questions that share it",
        whole=("hidden",),
        tokens=("prefix_token",),
        grow=("prefix_token", "prefix"),
    ),
    ArraySpec(
        "attention",
        ("example", "layer", "head", "query", "key"),
        "weight",
        "attention pattern of the suffix's tokens over all keys: the prefix's, then the suffix's; no row for `embed`",
        whole=("key",),
        tokens=("query",),
        grow=("head", "example"),
        blocks_only=True,
    ),
    ArraySpec(
        "readout_states",
        ("example", "layer", "position", "hidden"),
        "activation",
        "residual stream at prompt_last and the answer's tokens, laid out for probes: one layer and position of all",
        whole=("example", "hidden"),
    ),
    ArraySpec(
        "logits",
        ("example", "position", "vocab"),
        "activation",
        "next-token logits at prompt_last and at the answer's tokens",
        whole=("vocab",),
        grow=("example",),
    ),
    ArraySpec(
        "attn_write",
        ("example", "layer", "hidden"),
        "activation",
        "what each block's attention added to the residual stream at prompt_last; nothing for `embed`",
        whole=("hidden",),
        grow=("example",),
        blocks_only=True,
    ),
    ArraySpec(
        "mlp_write",
        ("example", "layer", "hidden"),
        "activation",
        "what each block's MLP added to the residual stream at prompt_last; nothing for `embed`",
        whole=("hidden",),
        grow=("example",),
        blocks_only=True,
    ),
    ArraySpec(
        "image_update",
        ("prefix", "layer"),
        "activation",
        "mean over the image tokens of the norm of what each block added to them; nothing for `embed`",
        whole=("prefix",),
        blocks_only=True,
    ),
    ArraySpec(
        "readout_attention",
        ("example", "layer", "head", "position", "prefix_token"),
        "weight",
        "attention pattern of prompt_last and the answer's tokens over the prefix, image tokens among it; none for "
        "`embed`",
        whole=("prefix_token",),
        grow=("head", "example"),
        blocks_only=True,
    ),
    ArraySpec(
        "prefix_attention",
        ("prefix", "layer", "head", "prefix_query", "key"),
        "weight",
        "attention pattern of the prefix's tokens over the prompt: over the prefix where it is shared, and over the "
        "suffix too where the family's prefix sees it",
        whole=("key",),
        tokens=("prefix_query",),
        grow=("prefix_query", "head", "prefix"),
        blocks_only=True,
    ),
    ArraySpec(
        "token_logits",
        ("example", "token", "vocab"),
        "activation",
        "next-token logits at every token of the suffix and the answer",
        whole=("vocab",),
        grow=("token", "example"),
    ),
    ArraySpec(
        "prefix_logits",
        ("prefix", "prefix_token", "vocab"),
        "activation",
        "next-token logits at every token of the prefix",
        whole=("vocab",),
        grow=("prefix_token", "prefix"),
    ),
    ArraySpec(
        "blank_states",
        ("example", "layer", "hidden"),
        "activation",
        "residual stream at prompt_last when the image is replaced by a gray one (128) of its size",
        whole=("example", "hidden"),
    ),
    ArraySpec(
        "blank_logits",
        ("example", "vocab"),
        "activation",
        "next-token logits at prompt_last when the image is replaced by a gray one (128) of its size",
        whole=("vocab",),
        grow=("example",),
    ),
    ArraySpec("token_id", ("example", "token"), "token_id", "token ids of the suffix", whole=("example", "token")),
    ArraySpec("token_role", ("example", "token"), "role", "roles of the suffix's tokens", whole=("example", "token")),
    ArraySpec(
        "prefix_token_id",
        ("prefix", "prefix_token"),
        "token_id",
        "token ids of the prefix",
        whole=("prefix", "prefix_token"),
    ),
    ArraySpec(
        "prefix_token_role",
        ("prefix", "prefix_token"),
        "role",
        "roles of the prefix's tokens",
        whole=("prefix", "prefix_token"),
    ),
    ArraySpec(
        "image_row",
        ("prefix", "prefix_token"),
        "cell",
        "row of the image grid that a prefix token stands for",
        whole=("prefix", "prefix_token"),
    ),
    ArraySpec(
        "image_column",
        ("prefix", "prefix_token"),
        "cell",
        "column of the image grid that a prefix token stands for",
        whole=("prefix", "prefix_token"),
    ),
    ArraySpec(
        "unembedding",
        ("vocab", "hidden"),
        "activation",
        "the matrix that turns a normed residual stream into logits",
        whole=("hidden",),
        grow=("vocab",),
        once=True,
    ),
    ArraySpec(
        "final_norm",
        ("hidden",),
        "activation",
        "scale of the norm before the unembedding",
        whole=("hidden",),
        once=True,
    ),
)

ONCE_ARRAYS = tuple(spec for spec in ARRAYS if spec.once)
"""Arrays that the whole run shares; all others get one shard from every batch."""

TOKEN_ARRAYS = ("token_id", "token_role", "prefix_token_id", "prefix_token_role", "image_row", "image_column")
ALWAYS = (*TOKEN_ARRAYS, *(spec.name for spec in ONCE_ARRAYS))
"""Arrays of every run, whatever its plan."""

BLANK_ARRAYS = ("blank_states", "blank_logits")
"""Arrays of the gray-image control."""


def layer_names(blocks: int) -> tuple[str, ...]:
    """Labels of the `layer` axis: `embed`, then the residual stream after each of the `blocks` decoder blocks."""
    return (EMBED, *(f"block_{number}" for number in range(blocks)))


def position_names(answer_tokens: int) -> tuple[str, ...]:
    """Labels of the `position` axis: `prompt_last` predicts `answer_0`, which predicts the next token, and so on."""
    return (PROMPT_LAST, *(f"answer_{number}" for number in range(answer_tokens)))
