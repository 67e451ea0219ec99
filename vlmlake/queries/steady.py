"""Which parts of a statement have the same rows whenever they are asked: only those may be asked ahead of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

Node = Mapping[str, Any]
"""A part of a statement, as DuckDB's `json_serialize_sql` has it."""

OWN_VIEWS = ("samples", "margins", "metrics_wide")
OWN_MACROS = ("layer_number",)
STEADY_TABLE_FUNCTIONS = frozenset({"unnest", "range", "generate_series"})

PICKING = frozenset(
    {"any_value", "approx_count_distinct", "approx_quantile", "approx_top_k", "arbitrary", "array_agg", "first", "last"}
    | {"arg_max", "arg_max_null", "arg_max_nulls_last", "argmax", "max_by", "list", "listagg", "string_agg"}
    | {"arg_min", "arg_min_null", "arg_min_nulls_last", "argmin", "min_by", "mode", "group_concat"}
    | {"reservoir_quantile"}
)
"""Aggregates that depend on the order of rows, which two runs of a query need not share."""

CHANGING = """
SELECT lower(function_name) FROM duckdb_functions()
WHERE stability IN ('VOLATILE', 'CONSISTENT_WITHIN_QUERY') OR (NOT internal AND function_name NOT IN $macros)
"""
FOREIGN = """
SELECT lower(view_name) FROM duckdb_views()
WHERE NOT internal AND view_name NOT IN $views AND NOT contains(sql, 'python_arrow_scan()')
UNION ALL SELECT lower(table_name) FROM duckdb_tables() WHERE sql ILIKE '%collate%'
"""
NAMES = """
SELECT lower(view_name) FROM duckdb_views() WHERE NOT internal
UNION ALL SELECT lower(table_name) FROM duckdb_tables()
"""


@dataclass(frozen=True)
class Known:
    """What a connection knows by name, in small letters. changing: functions that need not give the same twice, and
    the user's macros. foreign: the user's views, which may name anything, and tables that compare text in their own
    way. names: of every table and view.
    """

    changing: frozenset[str]
    foreign: frozenset[str]
    names: frozenset[str]

    @classmethod
    def of(cls, connection: duckdb.DuckDBPyConnection) -> Known:
        def told(query: str, **given: Any) -> frozenset[str]:
            return frozenset(name for (name,) in connection.execute(query, given or None).fetchall())

        return cls(told(CHANGING, macros=list(OWN_MACROS)), told(FOREIGN, views=list(OWN_VIEWS)), told(NAMES))

    def plain(self, tree: Node) -> bool:
        """Whether every name in a statement means one thing: no common table expression hides a table or another one,
        none is recursive.
        """
        ctes = [entry["key"].lower() for part in parts(tree) for entry in (part.get("cte_map") or {}).get("map", [])]
        return (
            len(ctes) == len(set(ctes))
            and self.names.isdisjoint(ctes)
            and all(part.get("type") != "RECURSIVE_CTE_NODE" for part in parts(tree))
        )

    def steady(self, node: Any, twice: bool) -> bool:
        """Whether a part has the same rows whenever it is asked. twice: whether the statement asks it again, so that it
        must not matter either in which order rows come.
        """
        return all(self._steady(part) and not (twice and _by_order(part)) for part in parts(node))

    def _steady(self, part: Node) -> bool:
        kind = part.get("type")
        if part.get("sample") or kind == "COLLATE":
            return False
        if kind == "BASE_TABLE":
            return part["table_name"].lower() not in self.foreign
        if kind == "TABLE_FUNCTION":
            return part["function"].get("function_name", "").lower() in STEADY_TABLE_FUNCTIONS
        return part.get("function_name", "").lower() not in self.changing


def _by_order(part: Node) -> bool:
    """Whether it is decided by the order of rows that nothing in it orders as far as to the example."""
    modifiers = part.get("modifiers") or []
    limited = any(one["type"] in ("LIMIT_MODIFIER", "LIMIT_PERCENT_MODIFIER") for one in modifiers)
    orders = [order for one in modifiers if one["type"] == "ORDER_MODIFIER" for order in one["orders"]]
    return (
        (limited and not _names_example(orders, ()))
        or (part.get("class") == "WINDOW" and not _names_example(part["orders"], part["partitions"]))
        or (part.get("type") == "DISTINCT_MODIFIER" and bool(part["distinct_on_targets"]))
        or part.get("function_name", "").lower() in PICKING
    )


def _names_example(orders: Sequence[Node], partitions: Sequence[Node]) -> bool:
    """Whether rows that are alike in these keys are of the same example of the same run."""
    keys = [*partitions, *(order["expression"] for order in orders)]
    return {"run", "example"} <= {str((key.get("column_names") or [""])[-1]).lower() for key in keys}


def mentions(node: Any, names: Collection[str]) -> bool:
    """Whether a table of one of these names, which are in small letters, is read somewhere in a node."""
    return any(part.get("type") == "BASE_TABLE" and part["table_name"].lower() in names for part in parts(node))


def parts(node: Any) -> Iterator[Node]:
    """Every mapping within a node."""
    if isinstance(node, Mapping):
        yield node
        node = list(node.values())
    if isinstance(node, Sequence) and not isinstance(node, str):
        for part in node:
            yield from parts(part)
