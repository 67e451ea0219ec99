"""Text as a person types it: where a statement ends, the single ones of several, and what tables they may read."""

from __future__ import annotations

import re

import duckdb

from vlmlake.errors import VlmlakeError
from vlmlake.queries.session import in_a_line
from vlmlake.store_schema import tables

QUOTED = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$|--[^\n]*|/\*.*?\*/""", re.DOTALL)
OPEN = re.compile(r"""['"]|\$\w*\$|/\*""")


def is_ended(text: str) -> bool:
    """Whether the last statement has its semicolon, outside of quotes and comments."""
    bare = QUOTED.sub(" ", text).rstrip()
    return bare.endswith(";") and not OPEN.search(bare)


def statements(text: str) -> tuple[str, ...]:
    """The single statements. Raises VlmlakeError with DuckDB's message for what is no SQL."""
    try:
        return tuple(statement.query for statement in duckdb.extract_statements(text))
    except duckdb.Error as error:
        raise VlmlakeError(f"SQL: {in_a_line(error)}") from error


def findings_named_in(query: str) -> tuple[str, ...]:
    """Tables of findings that a statement may read."""
    told = query.lower()
    if "query" in told:  # `query` and `query_table` put names together out of parts
        return tuple(tables.FINDINGS)
    return tuple(table for table in tables.FINDINGS if table in told or (table == "metrics" and "margins" in told))
