"""Examples of a run by an SQL condition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlmlake.queries.connect import sql


def examples_where(
    url: str, run: str, condition: str, storage_options: Mapping[str, Any] | None = None
) -> tuple[str, ...]:
    """Ids of the run's examples that a condition over the columns of `examples` and `answers` is true of.

    Raises VlmlakeError if the condition is wrong.
    """
    query = f"SELECT example FROM examples JOIN answers USING (run, example) WHERE run = '{run}' AND (\n{condition}\n)"  # noqa: S608 - the user's own, over a lake that it can only read
    return tuple(sql(url, query, storage_options)["example"].to_pylist())
