"""What DuckDB does not hand to a scan, examples that a subquery or a join chooses, resolved first and written into the
statement as constants, so that only their chunks are read.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import polars as pl

from vlmlake.queries.relations import RELATIONS

NO_VALUE = {key: "''" if kind.is_(pl.String) else "-1" for relation in RELATIONS for key, kind in relation.keys.items()}
"""For each key a constant that no row has: DuckDB does not hand an empty list to a scan."""
BY_EXAMPLE = frozenset(relation.name for relation in RELATIONS if "example" in relation.keys)

MOST_VALUES = 100_000
"""A longer list costs more than it saves."""

Node = Mapping[str, Any]
Edit = tuple[int, int, str]
"""First byte of the statement, the one behind the last, and what takes their place."""


def narrowed(connection: duckdb.DuckDBPyConnection, query: str, parameters: Mapping[str, Any] | None = None) -> str:
    """The same question of a connection, with the same answer, asked so that its scans read less.

    `key IN (SELECT ...)` becomes a list of constants where the subquery stands by itself and reads tables only. A
    relation that is joined by `USING (..., example, ...)` with tables reads those examples alone that they have under
    the conditions on them. Anything else, what chooses all examples, and what is no SELECT, comes back as it is.
    """
    tree = _serialised(connection, query)
    if tree is None or not _mentions(tree, BY_EXAMPLE):
        return query
    told = query.encode()
    narrower = _Narrower(connection, told, dict(parameters or {}))
    for start, end, text in sorted(narrower.edits(tree["node"], {}), reverse=True):
        told = told[:start] + text.encode() + told[end:]
    return told.decode()


def named_parameters(connection: duckdb.DuckDBPyConnection, query: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Those that a statement names, where that can be known without running it."""
    tree = _serialised(connection, query)
    if tree is None:
        return dict(given)
    named = {entry["key"] for entry in tree["named_param_map"]}
    return {name: value for name, value in given.items() if name in named}


def _serialised(connection: duckdb.DuckDBPyConnection, query: str) -> Node | None:
    """The one SELECT that a query is, as DuckDB's parser has it; none for anything else."""
    ((text,),) = connection.execute("SELECT json_serialize_sql($1)", [query]).fetchall()
    told = json.loads(text)
    return told["statements"][0] if not told["error"] and len(told["statements"]) == 1 else None


@dataclass(frozen=True)
class _Narrower:
    connection: duckdb.DuckDBPyConnection
    text: bytes
    parameters: Mapping[str, Any]

    def edits(self, node: Any, scope: Mapping[str, Any], positive: bool = False) -> Iterator[Edit]:
        """scope: common table expressions that can be named here. positive: whether a condition that is not true here
        leaves a row out, be it false or null.
        """
        if isinstance(node, Sequence) and not isinstance(node, str):
            for part in node:
                yield from self.edits(part, scope)
        if not isinstance(node, Mapping):
            return
        if _is_chosen_key(node):
            edit = self._constants(node, scope, positive)
            if edit is not None:
                yield edit
                return
        scope = {**scope, **{entry["key"]: entry for entry in node.get("cte_map", {}).get("map", [])}}
        if node.get("type") == "SELECT_NODE":
            yield from self._joined(node, scope)
        for name, part in node.items():
            if name == "where_clause" or (positive and node["type"] == "CONJUNCTION_AND"):
                for one in part if isinstance(part, list) else [part]:
                    yield from self.edits(one, scope, positive=True)
            else:
                yield from self.edits(part, scope)

    def _constants(self, node: Node, scope: Mapping[str, Any], positive: bool) -> Edit | None:
        """In place of a subquery its values."""
        start, end = _span(node)
        values = self._values(node["subquery"]["node"], scope)
        if values is None or self.text[start:end][:1] + self.text[start:end][-1:] != b"()":
            return None
        if node["child"]["column_names"][-1] == "example" and self._are_all(values):
            return None
        if not values:
            return (start, end, f"({NO_VALUE[node['child']['column_names'][-1]]})") if positive else None
        return start, end, _listed(values)

    def _joined(self, node: Node, scope: Mapping[str, Any]) -> Iterator[Edit]:
        """In place of relations that are joined with tables, their rows of the examples that the tables have."""
        leaves = [leaf for leaf in _joined_leaves(node["from_table"]) if not leaf.get("column_name_alias")]
        tables = _without(node["from_table"], leaves)
        if not leaves or tables is None or _mentions(tables, BY_EXAMPLE):
            return
        conditions = [part for part in _conjuncts(node["where_clause"]) if not _mentions(part, BY_EXAMPLE)]
        fitting = [part for part in conditions if self._runs(_examples_of(tables, [part]), scope)]
        values = self._values(_examples_of(tables, fitting), scope)
        if values is None or self._are_all(values):
            return
        chosen = f"example IN {_listed(values)}" if values else "false"
        for leaf in leaves:
            start, end = _span(leaf)
            name, alias = leaf["table_name"], (leaf["alias"] or leaf["table_name"]).replace('"', '""')
            own = f"(SELECT * FROM {name} WHERE {chosen})"  # noqa: S608
            yield start, end, f'{own} AS "{alias}"'

    def _are_all(self, examples: Sequence[Any]) -> bool:
        """Whether there are no others: naming thousands of them costs more than the reading, and leaves none out."""
        there = self.connection.execute("SELECT DISTINCT example FROM examples").fetchall()
        return {example for (example,) in there} <= set(examples)

    def _runs(self, node: Node, scope: Mapping[str, Any]) -> bool:
        return self._values(node, scope, limit=0) is not None

    def _values(self, node: Node, scope: Mapping[str, Any], limit: int = MOST_VALUES + 1) -> list[Any] | None:
        """What a query of one column gives; none if it reads arrays, names what is outside of it, or gives too much."""
        used = _used(node, scope)
        own = [*used.values(), *node.get("cte_map", {}).get("map", [])]
        if _mentions([node, own], BY_EXAMPLE):
            return None
        whole = {"error": False, "statements": [{"node": {**node, "cte_map": {"map": own}}, "named_param_map": []}]}
        try:
            ((text,),) = self.connection.execute(
                "SELECT json_deserialize_sql($1::JSON)", [json.dumps(whole)]
            ).fetchall()
            given = {name: self.parameters[name] for name in set(_parameters(whole)) & set(self.parameters)}
            found = self.connection.execute(f"SELECT * FROM ({text}) LIMIT {limit}", given or None).fetchall()  # noqa: S608
        except (duckdb.BinderException, duckdb.CatalogException, duckdb.ParserException, duckdb.InvalidInputException):
            return None
        values = [row[0] for row in found]
        fit = len(values) <= MOST_VALUES and all(type(value) in (str, int, type(None)) for value in values)
        return values if fit and all(len(row) == 1 for row in found) else None


def _is_chosen_key(node: Node) -> bool:
    """Whether it is `key IN (SELECT ...)`."""
    kind = (node.get("class"), node.get("subquery_type"), node.get("comparison_type"))
    return kind == ("SUBQUERY", "ANY", "COMPARE_EQUAL") and (node["child"].get("column_names") or [""])[-1] in NO_VALUE


def _joined_leaves(node: Node) -> Iterator[Node]:
    """Relations whose rows all have a partner of the same example in every row of a FROM clause's result."""
    if node.get("type") == "JOIN":
        inner = node["join_type"] == "INNER" and node["ref_type"] == "REGULAR"
        if inner and "example" in (node.get("using_columns") or []):
            yield from _joined_leaves(node["left"])
            yield from _joined_leaves(node["right"])
    elif node.get("type") == "BASE_TABLE" and node["table_name"] in BY_EXAMPLE and not node.get("schema_name"):
        yield node


def _without(node: Node, leaves: Sequence[Node]) -> Node | None:
    """A FROM clause without some of its leaves; none if nothing is left."""
    if any(node is leaf for leaf in leaves):
        return None
    if node.get("type") != "JOIN":
        return node
    left, right = _without(node["left"], leaves), _without(node["right"], leaves)
    return {**node, "left": left, "right": right} if left and right else left or right


def _examples_of(tables: Node, conditions: Sequence[Node]) -> Node:
    """SELECT DISTINCT example FROM tables WHERE all conditions."""
    unplaced = {"alias": "", "query_location": 0, "query_location_length": 0}
    where = {"class": "CONJUNCTION", "type": "CONJUNCTION_AND", "children": list(conditions), **unplaced}
    return {
        "type": "SELECT_NODE",
        "modifiers": [{"type": "DISTINCT_MODIFIER", "distinct_on_targets": []}],
        "cte_map": {"map": []},
        "select_list": [{"class": "COLUMN_REF", "type": "COLUMN_REF", "column_names": ["example"], **unplaced}],
        "from_table": tables,
        "where_clause": where if conditions else None,
        "group_expressions": [],
        "group_sets": [],
        "aggregate_handling": "STANDARD_HANDLING",
        "having": None,
        "sample": None,
        "qualify": None,
    }


def _conjuncts(condition: Node | None) -> list[Node]:
    if condition is None:
        return []
    return list(condition["children"]) if condition["type"] == "CONJUNCTION_AND" else [condition]


def _used(node: Any, scope: Mapping[str, Any]) -> dict[str, Any]:
    """Common table expressions of the scope that a node names, and those that they name, in the scope's order."""
    named: set[str] = set()
    new = {name for name in scope if _mentions(node, {name})}
    while new:
        named |= new
        new = {name for name in scope if _mentions([scope[one] for one in new], {name})} - named
    return {name: entry for name, entry in scope.items() if name in named}


def _mentions(node: Any, names: Collection[str]) -> bool:
    """Whether a table of one of these names is read somewhere in a node."""
    return any(part.get("type") == "BASE_TABLE" and part["table_name"] in names for part in _parts(node))


def _parameters(node: Any) -> list[str]:
    return [part["identifier"] for part in _parts(node) if part.get("class") == "PARAMETER"]


def _parts(node: Any) -> Iterator[Node]:
    """Every mapping within a node."""
    if isinstance(node, Mapping):
        yield node
        node = list(node.values())
    if isinstance(node, Sequence) and not isinstance(node, str):
        for part in node:
            yield from _parts(part)


def _span(node: Node) -> tuple[int, int]:
    start = node["query_location"]
    return start, start + node["query_location_length"]


def _listed(values: Sequence[Any]) -> str:
    """Constants in brackets."""
    return f"({', '.join(map(_constant, values))})"


def _constant(value: str | int | None) -> str:
    if value is None:
        return "NULL"
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"
