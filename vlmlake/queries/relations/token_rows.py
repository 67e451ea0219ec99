"""A row for each token of some examples, of the prompt and of the answer, counted from 0 over both."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import polars as pl

from vlmlake.queries.predicates import KeyConditions
from vlmlake.queries.relations.base import LABELS, Types, Unit, of_examples, with_labels
from vlmlake.store_schema.schema import PROMPT_LAST, ROLES, position_names

NOTHING = -2
PROMPT = -1
"""Numbers of the positions of tokens that are no readout, and of prompt_last; t is that of answer token t."""


def token_keys(token: str) -> Types:
    """Types of the keys. token: what the column of the token's number is called."""
    return {token: pl.Int32(), "role": pl.String(), "position": pl.String()}


def token_rows(
    unit: Unit, token: str, needed: Collection[str], conditions: KeyConditions, prefix: bool = True, suffix: bool = True
) -> pl.DataFrame:
    """The tokens of the unit's examples: `number` of the example, the token under its name, and the needed of `run`,
    `example`, `layer`, `role` and `position`. prefix, suffix: whether those of each are wanted.

    Examples and tokens of which no row may be asked for are left out.
    """
    examples = unit.examples
    before = examples["prefix_tokens"].to_numpy()
    after = (examples["suffix_tokens"] + examples["answer_tokens"]).to_numpy()
    first = np.zeros_like(before) if prefix else before
    counts = before * prefix + after * suffix
    number = np.repeat(examples["number"].to_numpy(), counts)
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    tokens = (np.arange(len(number)) - starts + np.repeat(first, counts)).astype(np.int32)
    rows = pl.DataFrame({"number": number, token: tokens})
    rows = with_labels(unit, rows, needed)
    rows = conditions.keep(rows, {*LABELS, token})
    if "position" in needed:
        rows = rows.with_columns(_positions(unit, rows, token))
        rows = conditions.keep(rows, {"position"})
    if "role" in needed:
        rows = rows.with_columns(_roles(unit, rows, token))
        rows = conditions.keep(rows, {"role"})
    return rows


def position_numbers(unit: Unit, rows: pl.DataFrame, token: str) -> np.ndarray:
    """Of each row's token: t for answer token t, PROMPT for prompt_last, NOTHING for others."""
    prompt = of_examples(unit, rows, "prefix_tokens") + of_examples(unit, rows, "suffix_tokens")
    numbers: np.ndarray = np.maximum(rows[token].to_numpy() - prompt, NOTHING)
    return numbers


def _positions(unit: Unit, rows: pl.DataFrame, token: str) -> pl.Series:
    numbers = position_numbers(unit, rows, token)
    labels = pl.Series([None, PROMPT_LAST, *position_names(int(numbers.max(initial=0)) + 1)[1:]], dtype=pl.String)
    return labels.gather(numbers - NOTHING).alias("position")


def _roles(unit: Unit, rows: pl.DataFrame, token: str) -> pl.Series:
    return pl.Series(ROLES).gather(token_values(unit, rows, token, "prefix_token_role", "token_role")).alias("role")


def token_values(unit: Unit, rows: pl.DataFrame, token: str, of_prefix: str, of_suffix: str | None) -> np.ndarray:
    """What the arrays of those names say of each row's token, int64; -1 for the suffix where it has no such array."""
    place, prefix_tokens = rows[token].to_numpy(), of_examples(unit, rows, "prefix_tokens")
    found = np.full(len(rows), -1, np.int64)
    inside = place < prefix_tokens
    for array, axis, here, shift in (
        (of_prefix, "prefix", inside, 0),
        (of_suffix, "row", ~inside, prefix_tokens[~inside]),
    ):
        if array is not None and here.any():
            entries, which = np.unique(of_examples(unit, rows, axis)[here], return_inverse=True)
            found[here] = unit.view.tokens(array, entries)[which, place[here] - shift]
    return found
