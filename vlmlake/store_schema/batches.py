"""Which example lands in which row of which batch, and how long every axis must be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vlmlake.store_schema.schema import Extents


@dataclass(frozen=True)
class Lengths:
    """Prompt tokens of one row up to the split between prefix and suffix, and after it."""

    prefix: int
    suffix: int


@dataclass(frozen=True)
class Batch:
    """Rows that are computed, written and committed together.

    number: place in the run, from 0. prefixes: one item per distinct prefix, its rows as indices into the run's
    distinct questions; questions about the same image share a prefix where the family allows it.
    """

    number: int
    prefixes: tuple[tuple[int, ...], ...]

    @property
    def examples(self) -> tuple[int, ...]:
        """Indices of the run's distinct questions, in the order of their rows."""
        return tuple(index for prefix in self.prefixes for index in prefix)

    @property
    def prefix_of(self) -> tuple[int, ...]:
        """For each row, which of the batch's prefixes it continues."""
        return tuple(number for number, prefix in enumerate(self.prefixes) for _ in prefix)


def plan_batches(prefix_keys: Sequence[str], batch_size: int, lengths: Sequence[Lengths]) -> tuple[Batch, ...]:
    """Cut a run into batches of at most `batch_size` rows, keeping rows of one prefix key together.

    prefix_keys, lengths: one per row; equal keys may share a prefix and have one prefix length. Prefixes of similar
    length, then of similar longest suffix, come together, so that a batch pads little. A key with more than
    `batch_size` rows is cut, and its prefix is computed and stored once per piece. The same input always gives the
    same batches.

    >>> short, long = Lengths(4, 2), Lengths(4, 9)
    >>> [batch.prefixes for batch in plan_batches(["a", "b", "a", "c"], 3, [long, short, short, short])]
    [((1,), (3,)), ((0, 2),)]
    """
    if batch_size < 1:
        raise ValueError(f"batch size is {batch_size}, expected at least 1")
    groups: dict[str, list[int]] = {}
    for index, key in enumerate(prefix_keys):
        groups.setdefault(key, []).append(index)
    pieces = [
        tuple(group[start : start + batch_size])
        for group in groups.values()
        for start in range(0, len(group), batch_size)
    ]
    pieces.sort(key=lambda piece: (lengths[piece[0]].prefix, max(lengths[index].suffix for index in piece)))
    batches: list[list[tuple[int, ...]]] = []
    filled = batch_size
    for piece in pieces:
        if filled + len(piece) > batch_size:
            batches.append([])
            filled = 0
        batches[-1].append(piece)
        filled += len(piece)
    return tuple(Batch(number, tuple(prefixes)) for number, prefixes in enumerate(batches))


@dataclass(frozen=True)
class Decoder:
    """What the plan must know of a model's decoder: block and head counts, residual width, vocabulary size."""

    blocks: int
    heads: int
    hidden: int
    vocab: int


def plan_extents(
    batches: Sequence[Batch],
    lengths: Sequence[Lengths],
    decoder: Decoder,
    layers: int,
    positions: int,
    answer_tokens: int,
) -> Extents:
    """Lengths of all axes. lengths: one per row of the run; layers, positions: how many of them the plan keeps."""
    return Extents(
        batches=len(batches),
        example_rows=max(len(batch.examples) for batch in batches),
        prefix_rows=max(len(batch.prefixes) for batch in batches),
        layers=layers,
        heads=decoder.heads,
        tokens=max(row.suffix for row in lengths) + answer_tokens,
        prefix_tokens=max(row.prefix for row in lengths),
        positions=positions,
        hidden=decoder.hidden,
        vocab=decoder.vocab,
    )
