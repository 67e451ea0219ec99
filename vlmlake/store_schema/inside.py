"""Where in its array a row has values, by its lengths: there stands no fill value, and elsewhere nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from vlmlake.store_schema.run_record import RunRecord
from vlmlake.store_schema.schema import EMBED, PROMPT_LAST, ArraySpec, Dimension


@dataclass(frozen=True)
class RowLengths:
    """Tokens of a question: before the split, from there to the prompt's end, and of its answer. Of a prefix: those of
    the first question that continues it. token_ids: of the answer.
    """

    prefix: int
    suffix: int
    answer: int
    token_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class BatchLengths:
    """One batch's rows and prefixes, each at its place in the batch."""

    rows: tuple[RowLengths, ...]
    prefixes: tuple[RowLengths, ...]

    @classmethod
    def of(cls, rows: pa.Table) -> BatchLengths:
        """rows: a commit's, whose places have no holes (check_rows.py)."""
        columns = ("row", "prefix", "prefix_tokens", "suffix_tokens", "answer_tokens", "token_ids")
        questions: dict[int, RowLengths] = {}
        prefixes: dict[int, RowLengths] = {}
        for row, prefix, before, after, told, ids in sorted(
            zip(*(rows[name].to_pylist() for name in columns), strict=True)
        ):
            questions[row] = RowLengths(before, after, told, tuple(ids))
            prefixes.setdefault(prefix, questions[row])
        return cls(tuple(questions.values()), tuple(prefixes[number] for number in sorted(prefixes)))

    def along(self, dimension: Dimension) -> tuple[RowLengths, ...]:
        """Those of an array whose first axis is `example` or `prefix`."""
        return self.rows if dimension == "example" else self.prefixes


def inside(spec: ArraySpec, record: RunRecord, lengths: RowLengths, sees_suffix: bool = False) -> list[np.ndarray]:
    """For each axis of an array but the first, the places where a row has values: their crossings, all of them.

    sees_suffix: whether the prefix's tokens attend to the suffix's. Of image_row and image_column: all places of the
    prefix, of which the image's tokens have values.
    """
    return [_places(spec, record, lengths, dimension, sees_suffix) for dimension in spec.dimensions[1:]]


def _places(
    spec: ArraySpec, record: RunRecord, lengths: RowLengths, dimension: Dimension, sees_suffix: bool
) -> np.ndarray:
    first, tokens = record.extents.prefix_tokens, lengths.suffix + lengths.answer
    if dimension == "layer":
        kept = [not (spec.blocks_only and label == EMBED) for label in record.layers]
        return np.flatnonzero(kept)
    if dimension == "position":
        return np.flatnonzero([_number(label) <= lengths.answer for label in record.positions])
    if dimension == "key":
        seen = tokens if spec.dimensions[0] == "example" else lengths.suffix if sees_suffix else 0
        return np.concatenate([np.arange(lengths.prefix), first + np.arange(seen)])
    if dimension in ("token", "query"):
        return np.arange(tokens)
    if dimension in ("prefix_token", "prefix_query"):
        return np.arange(lengths.prefix)
    return np.arange(record.extents.length(dimension))


def _number(position: str) -> int:
    """0 for prompt_last, t + 1 for answer token t."""
    return 0 if position == PROMPT_LAST else int(position.rpartition("_")[2]) + 1
