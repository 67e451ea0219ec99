"""Which examples a condition in SQL is true of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import duckdb

from vlmlake.errors import VlmlakeError
from vlmlake.queries.connect import sql
from vlmlake.queries.session import in_a_line


def examples_where(
    url: str, runs: Sequence[str], condition: str, storage_options: Mapping[str, Any] | None = None
) -> dict[str, tuple[str, ...]]:
    """Of each of these runs the ids of the examples that a condition over the columns of `examples` and `answers` is
    true of.

    Raises VlmlakeError if the condition is empty or wrong.
    """
    _require_condition(condition)
    query = f"SELECT run, example FROM examples JOIN answers USING (run, example) WHERE (\n{condition}\n)"  # noqa: S608 - the user's own, over a lake that it can only read
    found: dict[str, list[str]] = {run: [] for run in runs}
    for row in sql(url, query, storage_options).to_pylist():
        if row["run"] in found:
            found[row["run"]].append(row["example"])
    return {run: tuple(ids) for run, ids in found.items()}


def _require_condition(condition: str) -> None:
    """Raises VlmlakeError for what is no condition by itself, whatever it would be between two brackets."""
    if not condition.strip():
        raise VlmlakeError("the condition is empty: expected SQL over examples, as in split = 'adversarial'")
    try:
        statements = duckdb.extract_statements(f"SELECT 1 WHERE\n{condition}\n")
    except duckdb.Error as error:
        raise VlmlakeError(f"the condition {condition!r} is no SQL: {in_a_line(error)}") from error
    if len(statements) != 1:
        raise VlmlakeError(f"the condition {condition!r} holds {len(statements)} statements, expected a condition")
