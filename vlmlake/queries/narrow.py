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
from vlmlake.queries.steady import Known, Node, mentions, parts

KEYS = {key: str if kind.is_(pl.String) else int for relation in RELATIONS for key, kind in relation.keys.items()}
"""Every key, and what its values are."""
RELATION_NAMES = frozenset(relation.name for relation in RELATIONS)
BY_EXAMPLE = frozenset(relation.name for relation in RELATIONS if "example" in relation.keys)

NOT_PLAIN = ("schema_name", "catalog_name", "sample", "column_name_alias", "at_clause")
"""What a table in a FROM clause may have beside a name and an alias."""

MOST_VALUES = 20_000
"""A longer list costs more than it saves: DuckDB takes about a second for so many constants."""


@dataclass(frozen=True)
class _Edit:
    """start, end: the first byte of the statement, the one behind the last, whose place a list takes. before, behind:
    text around the list. none: what takes the place of an empty list.
    """

    start: int
    end: int
    values: tuple[str | int | None, ...]
    none: str
    before: str = ""
    behind: str = ""

    def text(self, most: int | None) -> str:
        listed = ", ".join(map(_constant, self.values[:most]))
        return f"{self.before}{f'({listed})' if listed else self.none}{self.behind}"


def narrowed(connection: duckdb.DuckDBPyConnection, query: str, parameters: Mapping[str, Any] | None = None) -> str:
    """The same question of a connection, with the same answer, asked so that its scans read less.

    `key IN (SELECT ...)` becomes a list of constants where the subquery stands by itself and reads tables only. A
    relation that is joined by `USING (..., example, ...)` with tables reads those examples alone that they have under
    the conditions on them. Anything else comes back as it is: what is no SELECT, what chooses all examples, what could
    give other rows when it is asked ahead (samples, `random()`, the user's own views and macros), and statements in
    which a common table expression is recursive or has the name of a table.
    """
    tree = _serialised(connection, query)
    if tree is None or not mentions(tree, BY_EXAMPLE) or not any(map(_may_narrow, parts(tree))):
        return query
    known = Known.of(connection)
    if not known.plain(tree):
        return query
    narrower = _Narrower(connection, known, query.encode(), dict(parameters or {}))
    edits = {edit.start: edit for edit in narrower.edits(tree["node"], {})}  # the parser may tell a part twice
    if not edits or not narrower.binds(_applied(query, edits.values(), most=1)):
        return query
    return _applied(query, edits.values(), most=None)


def _applied(query: str, edits: Collection[_Edit], most: int | None) -> str:
    """The statement with these edits. most: values of each list; none for all."""
    told = query.encode()
    for edit in sorted(edits, key=lambda edit: edit.start, reverse=True):
        told = told[: edit.start] + edit.text(most).encode() + told[edit.end :]
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
    known: Known
    text: bytes
    parameters: Mapping[str, Any]

    def edits(self, node: Any, scope: Mapping[str, Any], positive: bool = False) -> Iterator[_Edit]:
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
        scope = {**scope, **{entry["key"].lower(): entry for entry in node.get("cte_map", {}).get("map", [])}}
        if node.get("type") == "SELECT_NODE":
            yield from self._joined(node, scope)
        for name, part in node.items():
            if name == "select_list":
                # Without an alias a column's name is its text, which has to stay.
                yield from self.edits([one for one in part if one.get("alias")], scope)
            elif name == "where_clause" or (positive and node["type"] == "CONJUNCTION_AND"):
                for one in part if isinstance(part, list) else [part]:
                    yield from self.edits(one, scope, positive=True)
            else:
                yield from self.edits(part, scope)

    def binds(self, query: str) -> bool:
        """Whether the connection understands a statement."""
        try:
            given = named_parameters(self.connection, query, self.parameters)
            self.connection.execute(f"EXPLAIN {query}", given or None)
        except duckdb.InterruptException:
            raise
        except duckdb.Error:
            return False
        return True

    def _constants(self, node: Node, scope: Mapping[str, Any], positive: bool) -> _Edit | None:
        """In place of a subquery its values."""
        start, end = _span(node)
        if self.text[start:end][:1] + self.text[start:end][-1:] != b"()":
            return None
        values = self._values(node["subquery"]["node"], scope, KEYS[_name(node["child"])])
        if values is None or (_name(node["child"]) == "example" and self._are_all(values)):
            return None
        if positive:  # null is not true, and with one among them DuckDB hands no list to a scan
            values = [value for value in values if value is not None]
        return _Edit(start, end, tuple(values), "(SELECT NULL WHERE false)")

    def _joined(self, node: Node, scope: Mapping[str, Any]) -> Iterator[_Edit]:
        """In place of relations that are joined with tables, their rows of the examples that the tables have."""
        leaves = list(_joined_leaves(node["from_table"]))
        tables = _without(node["from_table"], leaves)
        if not leaves or tables is None or not self._steady(tables, scope, twice=True):
            return
        conditions = [part for part in _conjuncts(node["where_clause"]) if self._steady(part, scope, twice=True)]
        fitting = [part for part in conditions if self._values(_examples_of(tables, [part]), scope, str, 0) is not None]
        values = self._values(_examples_of(tables, fitting), scope, str)
        if values is None or self._are_all(values):
            return
        chosen = tuple(sorted(value for value in values if value is not None))
        for leaf in leaves:
            name, alias = leaf["table_name"], (leaf["alias"] or leaf["table_name"]).replace('"', '""')
            before = f"(SELECT * FROM {name} WHERE example IN "  # noqa: S608
            yield _Edit(*_span(leaf), chosen, "(SELECT NULL WHERE false)", before, f') AS "{alias}"')

    def _are_all(self, examples: Sequence[Any]) -> bool:
        """Whether there are no others: naming thousands of them costs more than the reading, and leaves none out."""
        there = self.connection.execute("SELECT DISTINCT example FROM examples").fetchall()
        return {example for (example,) in there} <= set(examples)

    def _steady(self, node: Any, scope: Mapping[str, Any], twice: bool) -> bool:
        """Whether a part may be asked ahead: it reads no arrays, and gives the same rows then. Common table expressions
        that it names are asked twice in any case.
        """
        used = list(_used(node, scope).values())
        return (
            not mentions([node, used], RELATION_NAMES)
            and self.known.steady(node, twice)
            and self.known.steady(used, twice=True)
        )

    def _values(
        self, node: Node, scope: Mapping[str, Any], kind: type, limit: int = MOST_VALUES + 1
    ) -> list[Any] | None:
        """What a query of one column gives; none if it cannot be asked ahead, names what is outside of it, gives too
        much, or anything else than nulls and values of a kind.
        """
        if not self._steady(node, scope, twice=False):
            return None
        own = [*_used(node, scope).values(), *node.get("cte_map", {}).get("map", [])]
        whole = {"error": False, "statements": [{"node": {**node, "cte_map": {"map": own}}, "named_param_map": []}]}
        try:
            ((text,),) = self.connection.execute(
                "SELECT json_deserialize_sql($1::JSON)", [json.dumps(whole)]
            ).fetchall()
            given = {name: self.parameters[name] for name in set(_parameters(whole)) & set(self.parameters)}
            found = self.connection.execute(f"SELECT * FROM ({text}) LIMIT {limit}", given or None).fetchall()  # noqa: S608
        except duckdb.InterruptException:
            raise
        except duckdb.Error:  # whatever is wrong with it, the statement itself says so better
            return None
        values = [row[0] for row in found]
        fit = len(values) <= MOST_VALUES and all(value is None or type(value) is kind for value in values)
        return values if fit and all(len(row) == 1 for row in found) else None


def _may_narrow(node: Node) -> bool:
    return node.get("type") == "JOIN" or _is_chosen_key(node)


def _is_chosen_key(node: Node) -> bool:
    """Whether it is `key IN (SELECT ...)`."""
    kind = (node.get("class"), node.get("subquery_type"), node.get("comparison_type"))
    return kind == ("SUBQUERY", "ANY", "COMPARE_EQUAL") and _name(node["child"]) in KEYS


def _name(expression: Node) -> str:
    """Of a column; empty for any other expression."""
    return str((expression.get("column_names") or [""])[-1]).lower()


def _joined_leaves(node: Node) -> Iterator[Node]:
    """Relations whose rows all have a partner of the same example in every row of a FROM clause's result."""
    if node.get("type") == "JOIN":
        inner = node["join_type"] == "INNER" and node["ref_type"] == "REGULAR"
        if inner and "example" in [name.lower() for name in node.get("using_columns") or []]:
            yield from _joined_leaves(node["left"])
            yield from _joined_leaves(node["right"])
    elif (
        node.get("type") == "BASE_TABLE"
        and node["table_name"].lower() in BY_EXAMPLE
        and not any(node.get(name) for name in NOT_PLAIN)
    ):
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
    new = {name for name in scope if mentions(node, {name})}
    while new:
        named |= new
        new = {name for name in scope if mentions([scope[one] for one in new], {name})} - named
    return {name: entry for name, entry in scope.items() if name in named}


def _parameters(node: Any) -> list[str]:
    return [part["identifier"] for part in parts(node) if part.get("class") == "PARAMETER"]


def _span(node: Node) -> tuple[int, int]:
    start = node["query_location"]
    return start, start + node["query_location_length"]


def _constant(value: str | int | None) -> str:
    if value is None:
        return "NULL"
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"
