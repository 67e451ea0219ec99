"""What DuckDB does not hand to a scan, examples that a subquery or a join chooses, resolved first and written into the
statement as constants, so that only their chunks are read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
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

PAIR = ("run", "example")
"""What examples are named by: ids repeat from run to run."""

NOT_PLAIN = ("schema_name", "catalog_name", "sample", "column_name_alias", "at_clause")
"""What a table in a FROM clause may have beside a name and an alias."""

MOST_VALUES = 20_000
"""A longer list costs more than it saves: DuckDB takes about a second for so many constants."""


Row = tuple[Any, ...]


@dataclass(frozen=True)
class _Edit:
    """start, end: the first byte of the statement, the one behind the last, whose place a text takes. short: one that
    binds as the text does, with fewer constants.
    """

    start: int
    end: int
    text: str
    short: str


def narrowed(connection: duckdb.DuckDBPyConnection, query: str, parameters: Mapping[str, Any] | None = None) -> str:
    """The same question of a connection, with the same answer, asked so that its scans read less.

    `key IN (SELECT ...)` becomes a list of constants where the subquery stands by itself and reads tables only;
    `(run, example) IN (SELECT ...)` gets one beside it for each run. A relation that is joined with tables by
    `USING (run, example)`, or one of the two, reads those examples alone that they have under the conditions on them.
    Anything else comes back as it is: what is no SELECT, what chooses all examples, what could
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
    if not edits or not narrower.binds(
        _applied(query, {start: (edit.end, edit.short) for start, edit in edits.items()})
    ):
        return query
    return _applied(query, {start: (edit.end, edit.text) for start, edit in edits.items()})


def _applied(query: str, edits: Mapping[int, tuple[int, str]]) -> str:
    """The statement with other texts. edits: by their first byte, the one behind their last, and the text."""
    told = query.encode()
    for start, (end, text) in sorted(edits.items(), reverse=True):
        told = told[:start] + text.encode() + told[end:]
    return told.decode()


def is_select(connection: duckdb.DuckDBPyConnection, query: str) -> bool:
    """Whether a query is one SELECT, which changes nothing."""
    return _serialised(connection, query) is not None


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
        if _is_chosen_key(node) or (positive and _is_chosen_pair(node)):
            edit = self._constants(node, scope, positive) if _is_chosen_key(node) else self._pairs(node, scope)
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
        name = _name(node["child"])
        rows = self._rows(node["subquery"]["node"], scope, [KEYS[name]])
        if rows is None or (name == "example" and self._are_all(rows, [name])):
            return None
        # Null is not true, and with one among them DuckDB hands no list to a scan.
        values = [value for (value,) in rows if value is not None or not positive]
        return _Edit(start, end, _listed(values), _listed(values[:1]))

    def _pairs(self, node: Node, scope: Mapping[str, Any]) -> _Edit | None:
        """A subquery of runs and examples, with its rows as a condition beside it."""
        columns = [argument["expression"] for argument in node["child"]["arguments"]]
        names = [_name(column) for column in columns]
        rows = self._rows(node["subquery"]["node"], scope, [str, str])
        if rows is None or self._are_all(rows, names):
            return None
        start, end = _span(node["child"])[0], _span(node)[1]
        texts = [self.text[slice(*_span(column))].decode() for column in columns]
        whole = self.text[start:end].decode()
        if not (whole.startswith("(") and whole.endswith(")")):
            return None
        text, short = (self._condition(some, dict(zip(names, texts, strict=True)), names) for some in (rows, rows[:1]))
        return _Edit(start, end, f"({whole} AND {text})", f"({whole} AND {short})")

    def _joined(self, node: Node, scope: Mapping[str, Any]) -> Iterator[_Edit]:
        """In place of relations that are joined with tables, their rows of the examples that the tables have."""
        leaves = list(_joined_leaves(node["from_table"], frozenset()))
        tables = _without(node["from_table"], [leaf for leaf, _ in leaves])
        if not leaves or tables is None or not self._steady(tables, scope, twice=True):
            return
        conditions = [part for part in _conjuncts(node["where_clause"]) if self._steady(part, scope, twice=True)]
        for leaf, names in leaves:
            keys = [name for name in PAIR if name in names]
            kinds = [KEYS[key] for key in keys]
            told = [
                part for part in conditions if self._rows(_chosen_by(tables, keys, [part]), scope, kinds, 0) is not None
            ]
            rows = self._rows(_chosen_by(tables, keys, told), scope, kinds)
            if rows is None or self._are_all(rows, keys):
                continue
            name, alias = leaf["table_name"], (leaf["alias"] or leaf["table_name"]).replace('"', '""')
            text, short = (self._condition(some, dict(zip(PAIR, PAIR, strict=True)), keys) for some in (rows, rows[:1]))
            before, behind = f"(SELECT * FROM {name} WHERE ", f') AS "{alias}"'  # noqa: S608
            yield _Edit(*_span(leaf), f"{before}{text}{behind}", f"{before}{short}{behind}")

    def _condition(self, rows: Sequence[Row], columns: Mapping[str, str], names: Sequence[str]) -> str:
        """That a row is of one of these runs and examples. columns: what they are called. names: what the rows have."""
        known = sorted({tuple(row) for row in rows if None not in row})
        if not known:
            return "false"
        if len(names) == 1:
            return f"{columns[names[0]]} IN {_listed([value for (value,) in known])}"
        by_run: dict[Any, set[Any]] = {}
        for row in known:
            own = dict(zip(names, row, strict=True))
            by_run.setdefault(own["run"], set()).add(own["example"])
        there: dict[Any, set[Any]] = {run: set() for run in by_run}
        for run, example in self.connection.execute("SELECT run, example FROM examples").fetchall():
            there.setdefault(run, set()).add(example)
        conditions = []
        for run, examples in by_run.items():
            condition = f"{columns['run']} = {_constant(run)}"
            if not there[run] <= examples:
                condition += f" AND {columns['example']} IN {_listed(sorted(examples))}"
            conditions.append(f"({condition})")
        return f"({' OR '.join(conditions)})"

    def _are_all(self, rows: Sequence[Row], names: Sequence[str]) -> bool:
        """Whether there are no others: naming thousands of them costs more than the reading, and leaves none out."""
        there = self.connection.execute(f"SELECT DISTINCT {', '.join(names)} FROM examples").fetchall()  # noqa: S608
        return set(there) <= {tuple(row) for row in rows}

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

    def _rows(
        self, node: Node, scope: Mapping[str, Any], kinds: Sequence[type], limit: int = MOST_VALUES + 1
    ) -> list[Row] | None:
        """What a query gives; none if it cannot be asked ahead, names what is outside of it, gives too much, or
        anything else than nulls and values of these kinds.
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
        fit = len(found) <= MOST_VALUES and all(len(row) == len(kinds) for row in found)
        return (
            found
            if fit
            and all(one is None or type(one) is kind for row in found for one, kind in zip(row, kinds, strict=True))
            else None
        )


def _may_narrow(node: Node) -> bool:
    return node.get("type") == "JOIN" or _is_chosen_key(node) or _is_chosen_pair(node)


def _is_chosen_key(node: Node) -> bool:
    """Whether it is `key IN (SELECT ...)`."""
    return _is_in(node) and _name(node["child"]) in KEYS


def _is_chosen_pair(node: Node) -> bool:
    """Whether it is `(run, example) IN (SELECT ...)`."""
    if not _is_in(node) or node["child"].get("function_name") != "row":
        return False
    return sorted(_name(one["expression"]) for one in node["child"]["arguments"]) == sorted(PAIR)


def _is_in(node: Node) -> bool:
    kind = (node.get("class"), node.get("subquery_type"), node.get("comparison_type"))
    return kind == ("SUBQUERY", "ANY", "COMPARE_EQUAL")


def _name(expression: Node) -> str:
    """Of a column; empty for any other expression."""
    return str((expression.get("column_names") or [""])[-1]).lower()


def _joined_leaves(node: Node, names: frozenset[str]) -> Iterator[tuple[Node, frozenset[str]]]:
    """Relations whose rows all have a partner in every row of a FROM clause's result, and what of PAIR the two have in
    common. names: what is known so far.
    """
    if node.get("type") == "JOIN":
        using = frozenset(name.lower() for name in node.get("using_columns") or [])
        if node["join_type"] == "INNER" and node["ref_type"] == "REGULAR" and using:
            yield from _joined_leaves(node["left"], names | using & {*PAIR})
            yield from _joined_leaves(node["right"], names | using & {*PAIR})
    elif (
        names
        and node.get("type") == "BASE_TABLE"
        and node["table_name"].lower() in BY_EXAMPLE
        and not any(node.get(name) for name in NOT_PLAIN)
    ):
        yield node, names


def _without(node: Node, leaves: Sequence[Node]) -> Node | None:
    """A FROM clause without some of its leaves; none if nothing is left."""
    if any(node is leaf for leaf in leaves):
        return None
    if node.get("type") != "JOIN":
        return node
    left, right = _without(node["left"], leaves), _without(node["right"], leaves)
    return {**node, "left": left, "right": right} if left and right else left or right


def _chosen_by(tables: Node, keys: Sequence[str], conditions: Sequence[Node]) -> Node:
    """SELECT DISTINCT keys FROM tables WHERE all conditions."""
    unplaced = {"alias": "", "query_location": 0, "query_location_length": 0}
    where = {"class": "CONJUNCTION", "type": "CONJUNCTION_AND", "children": list(conditions), **unplaced}
    return {
        "type": "SELECT_NODE",
        "modifiers": [{"type": "DISTINCT_MODIFIER", "distinct_on_targets": []}],
        "cte_map": {"map": []},
        "select_list": [
            {"class": "COLUMN_REF", "type": "COLUMN_REF", "column_names": [key], **unplaced} for key in keys
        ],
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


def _listed(values: Sequence[str | int | None]) -> str:
    """In brackets; of none what is no value in any context, and leaves no row of a scan."""
    return f"({', '.join(map(_constant, values))})" if values else "(SELECT NULL WHERE false)"


def _constant(value: str | int | None) -> str:
    if value is None:
        return "NULL"
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"
