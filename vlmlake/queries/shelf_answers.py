"""Questions of the shelf asked of a lake: names looked up in it, and what must be there before there is an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from vlmlake.answers.rules import DEFAULT_RULE
from vlmlake.errors import VlmlakeError
from vlmlake.queries.meter import LIMIT
from vlmlake.queries.session import Answer, Session
from vlmlake.queries.shelf import NULL, Need, ShelfQuery, shelf_query
from vlmlake.queries.statements import findings_named_in

ALL_SPLITS = "all"
"""What findings over all splits together are under."""


def run_query(
    url: str,
    name: str,
    parameters: Mapping[str, Any] | None = None,
    storage_options: Mapping[str, Any] | None = None,
    runs: Sequence[str] | None = None,
    limit: int | None = LIMIT,
) -> pa.Table:
    """The answer to a question of the shelf (`vlmlake queries`), from the lake at `url`.

    parameters: by name, the others have their defaults; None for `null`. runs, limit: as of `connect`.

    Raises VlmlakeError for an unknown question or parameter, a value that is none of its type, a run or example that
    the lake does not hold, and where the analysis that it asks about was never run.
    """
    query = shelf_query(name)
    given = {key: NULL if value is None else str(value) for key, value in (parameters or {}).items()}
    query.bind(given)
    findings = findings_named_in(query.sql)
    with Session.at(url, storage_options, runs=runs, limit=limit, findings=findings) as session:
        return ask_shelf(session, query, given).table


def ask_shelf(session: Session, query: ShelfQuery, given: Mapping[str, str]) -> Answer:
    """The answer to one question, with the parameters as a command line gives them. Errors as of `run_query`."""
    return session.ask(query.sql, bound(session, query, given))


def bound(session: Session, query: ShelfQuery, given: Mapping[str, str]) -> dict[str, Any]:
    """A value for every parameter of a question, by which the lake has an answer. Errors as of `run_query`.

    Of a layer it is a list of runs with the layer of each: the last of one model is not that of another.
    """
    values = query.bind(given)
    if values.get("run") is not None:
        values["run"] = _run(session, values["run"])
    if values.get("split") not in (None, ALL_SPLITS):
        _require_split(session, values["split"], values.get("run"))
    if values.get("example") is not None:
        _require_example(session, values["example"], values.get("run"))
    if "layer" in values:
        values["layer"] = _layers(session, values["layer"], values.get("run"))
    for need in query.needs:
        _require(session, query, need, values)
    return values


def _run(session: Session, name: str) -> str:
    """The name of the run that has this name or is the only one of this model."""
    rows = session.ask("SELECT run, model FROM runs ORDER BY run").table.to_pylist()
    fitting = [row["run"] for row in rows if row["run"] == name] or [row["run"] for row in rows if row["model"] == name]
    if len(fitting) != 1:
        names = ", ".join(fitting or [row["run"] for row in rows])
        found = f"the runs {names} all fit" if fitting else f"there are {names or 'none'}"
        raise VlmlakeError(f"no single run named {name}: {found}")
    return str(fitting[0])


def _layers(session: Session, layer: str | None, run: str | None) -> list[dict[str, str]]:
    """Of each run, or of the one, that layer, or the last. Raises VlmlakeError where none keeps it."""
    kept = {view.name: view.record.layers for view in session.catalog.views if run in (None, view.name)}
    found = [{"run": name, "layer": layer or labels[-1]} for name, labels in kept.items() if layer in (None, *labels)]
    if kept and not found:
        labels = dict.fromkeys(label for labels in kept.values() for label in labels)
        raise VlmlakeError(f"no layer {layer} is kept by {', '.join(kept)}: expected one of {', '.join(labels)}")
    return found


def _require_split(session: Session, split: str, run: str | None) -> None:
    query = "SELECT DISTINCT split FROM examples WHERE $run IS NULL OR run = $run ORDER BY split"
    there = session.ask(query, {"run": run}).table["split"].to_pylist()
    if split not in there:
        raise VlmlakeError(f"no split {split} in {_place(run)}: expected one of {', '.join(map(str, there))}")


def _require_example(session: Session, example: str, run: str | None) -> None:
    query = "SELECT 1 FROM examples WHERE example = $example AND ($run IS NULL OR run = $run) LIMIT 1"
    if not session.ask(query, {"example": example, "run": run}).table.num_rows:
        raise VlmlakeError(f"no example {example} in {_place(run)}: the table `examples` lists them")


def _place(run: str | None) -> str:
    return f"the run {run}" if run else "the lake"


def _require(session: Session, query: ShelfQuery, need: Need, values: Mapping[str, Any]) -> None:
    """Raises VlmlakeError where an analysis has left nothing that fits the parameters."""
    columns = session.names()[need.table]
    asked = {"analysis": need.analysis, **{name: values[name] for name in ("run", "rule") if values.get(name)}}
    conditions = [_fits(name) for name in asked if name in columns]
    if "condition" in values:
        asked["condition"] = values["condition"]
        conditions.append("condition IS NOT DISTINCT FROM $condition")
    used = {name: value for name, value in asked.items() if name in columns}
    statement = f"SELECT 1 FROM {need.table} WHERE {' AND '.join(conditions)} LIMIT 1"  # noqa: S608 - names of ours
    if session.ask(statement, used).table.num_rows:
        return
    rule = values.get("rule") or DEFAULT_RULE
    told = [f"of the run {values['run']}"] if values.get("run") else []
    command = ["vlmlake analyze URL", need.analysis, *([f"--run {values['run']}"] if values.get("run") else [])]
    if rule != DEFAULT_RULE:
        told.append(f"under the rule {rule}")
        command.append(f"--rule {rule}")
    if values.get("condition"):
        told.append(f"under the condition {values['condition']}")
        command.append(f'--where "{values["condition"]}"')
    what = need.table if need.table == need.analysis else f"{need.table} of {need.analysis}"
    raise VlmlakeError(
        f"the query {query.name} needs {' '.join([what, *told])}, and there are none: run `{' '.join(command)}`"
    )


def _fits(column: str) -> str:
    """Numbers that hang on no label have no rule."""
    return f"(rule IS NULL OR rule = ${column})" if column == "rule" else f"{column} = ${column}"
