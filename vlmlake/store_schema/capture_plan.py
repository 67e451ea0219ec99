"""Which example lands in which row of which batch, and how long every axis must be: the plan before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vlmlake.store_schema.schema import Extents, layer_names, position_names


@dataclass(frozen=True)
class Batch:
    """Examples that are computed, written and committed together.

    number: place in the run, from 0. prefixes: one item per distinct prefix, its examples as indices into the run's
    examples; questions about the same image share a prefix where the family allows it.
    """

    number: int
    prefixes: tuple[tuple[int, ...], ...]

    @property
    def examples(self) -> tuple[int, ...]:
        """Indices of the run's examples, in the order of their rows."""
        return tuple(index for prefix in self.prefixes for index in prefix)

    @property
    def prefix_of(self) -> tuple[int, ...]:
        """For each example, which of the batch's prefixes it continues."""
        return tuple(number for number, prefix in enumerate(self.prefixes) for _ in prefix)


def plan_batches(prefix_keys: Sequence[str], batch_size: int) -> tuple[Batch, ...]:
    """Cut a run into batches of at most `batch_size` examples, keeping examples of one prefix key together.

    prefix_keys: one key per example; equal keys may share a prefix. A key with more than `batch_size` examples is cut,
    and its prefix is computed and stored once per piece. The same input always gives the same batches.

    >>> [batch.prefixes for batch in plan_batches(["a", "b", "a", "c"], batch_size=3)]
    [((0, 2), (1,)), ((3,),)]
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
    decoder: Decoder,
    suffix_lengths: Sequence[int],
    prefix_lengths: Sequence[int],
    answer_tokens: int,
) -> Extents:
    """Lengths of all axes. suffix_lengths, prefix_lengths: prompt tokens of every example after and up to the split."""
    return Extents(
        batches=len(batches),
        example_rows=max(len(batch.examples) for batch in batches),
        prefix_rows=max(len(batch.prefixes) for batch in batches),
        layers=len(layer_names(decoder.blocks)),
        heads=decoder.heads,
        tokens=max(suffix_lengths) + answer_tokens,
        prefix_tokens=max(prefix_lengths),
        positions=len(position_names(answer_tokens)),
        hidden=decoder.hidden,
        vocab=decoder.vocab,
    )
