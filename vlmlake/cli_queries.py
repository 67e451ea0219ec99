"""Verbs that ask: `sql`, and the questions of the shelf."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vlmlake import cli_options as options
from vlmlake.errors import VlmlakeError

if TYPE_CHECKING:
    from vlmlake.console.answers import Target
    from vlmlake.queries.session import Session

UNITS = {"": 1, "b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3, "tb": 1000**4}
UNITS |= {"kib": 1024, "mib": 1024**2, "gib": 1024**3, "tib": 1024**4}

Runs = Annotated[
    list[str] | None, typer.Option("--run", help="Only this run, by name or model; as often as wanted. All.")
]
Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="table|csv|json|parquet|arrow",
        help="How the answer is written; json is one array of objects. By the ending of --output, else table.",
    ),
]
Output = Annotated[
    str | None, typer.Option(metavar="URL", help="A file to write it to, whole or not at all: a path, s3://... .")
]
OutputOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--output-option", metavar="NAME=VALUE", help="For the file system of --output, where it is not the lake's."
    ),
]
Explain = Annotated[
    bool, typer.Option("--explain", help="Say of a SELECT what it would fetch of arrays, and fetch none of it.")
]
Stats = Annotated[bool, typer.Option("--stats", help="Say afterwards, on standard error, what was fetched.")]
Limit = Annotated[
    str, typer.Option(metavar="BYTES", help="Refuse a statement that fetches more of arrays: 500MB, 2GiB, none.")
]


def sql(
    url: options.Url,
    query: Annotated[
        str | None,
        typer.Argument(metavar="[STATEMENT]", help="One SQL statement; a prompt, or standard input, without."),
    ] = None,
    run: Runs = None,
    form: Format = None,
    output: Output = None,
    explain: Explain = False,
    stats: Stats = False,
    limit: Limit = "2GiB",
    allow_files: Annotated[
        bool,
        typer.Option("--allow-files", help="Let the statement read and write files of this machine, as DuckDB can."),
    ] = False,
    storage_option: options.StorageOptions = None,
    output_option: OutputOptions = None,
) -> None:
    """Ask a lake in SQL. Tables: runs, examples, answers, samples, batches, skipped, results, metrics (metrics_wide,
    margins), labels, rankings, interventions, outcomes. Arrays: hidden_states, readout_states, attention,
    attention_image, logits_top, tokens, prefixes.

    Example: vlmlake sql ./lake "select split, count(*) from examples group by split"
    """
    from vlmlake.queries.session import Session
    from vlmlake.queries.statements import findings_named_in

    settings = options.storage_options(storage_option)
    target = _target(url, form, output, settings, options.storage_options(output_option))
    _require_answer(explain, form, output)
    opened = partial(Session.at, url, settings, runs=run or None, allow_files=allow_files, limit=limit_of(limit))
    if query is None and sys.stdin.isatty():
        if explain:
            raise VlmlakeError("--explain needs a statement: at the prompt there is .explain")
        with opened() as session:
            _converse(session, target, stats)
        return
    texts = _from_standard_input() if query is None else (query,)
    if len(texts) > 1 and target.form != "table":
        raise VlmlakeError(f"{len(texts)} statements have {len(texts)} answers: expected one for {target.form}")
    with opened(findings=findings_named_in(";".join(texts))) as session:
        for text in texts:
            _answer(session, text, None, target, explain, stats)


def queries(
    name: Annotated[str | None, typer.Argument(help="One question, whole.")] = None,
) -> None:
    """List the shelf: questions that are often asked of a lake, each one SQL statement.

    Example: vlmlake queries accuracy
    """
    from vlmlake.console import terminal
    from vlmlake.console.shelf import print_query, print_shelf
    from vlmlake.queries.shelf import shelf_query

    if name is None:
        print_shelf(terminal())
    else:
        print_query(terminal(), shelf_query(name))


def query(
    name: Annotated[str, typer.Argument(help="A question of the shelf: `vlmlake queries` lists them.")],
    url: options.Url,
    param: Annotated[
        list[str] | None, typer.Option("--param", metavar="NAME=VALUE", help="A parameter; as often as wanted.")
    ] = None,
    run: Runs = None,
    form: Format = None,
    output: Output = None,
    explain: Explain = False,
    stats: Stats = False,
    limit: Limit = "2GiB",
    storage_option: options.StorageOptions = None,
    output_option: OutputOptions = None,
) -> None:
    """Ask a lake a question of the shelf.

    Example: vlmlake query confident-errors ./lake --param split=adversarial --format csv
    """
    from vlmlake.queries.session import Session
    from vlmlake.queries.shelf import named_values, shelf_query
    from vlmlake.queries.shelf_answers import bound
    from vlmlake.queries.statements import findings_named_in

    _require_answer(explain, form, output)
    settings = options.storage_options(storage_option)
    asked, given = shelf_query(name), named_values(param or [])
    asked.bind(given)
    target = _target(url, form, output, settings, options.storage_options(output_option))
    findings = findings_named_in(asked.sql)
    with Session.at(url, settings, runs=run or None, limit=limit_of(limit), findings=findings) as session:
        rows = _answer(session, asked.sql, bound(session, asked, given), target, explain, stats)
    if rows == 0:
        print("vlmlake: no rows: the lake has nothing that these parameters fit", file=sys.stderr)


def limit_of(text: str) -> int | None:
    """Bytes out of 2GiB, 500MB, 1000; none for no limit. Raises VlmlakeError for anything else."""
    if text.lower() == "none":
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip().lower())
    if found is None or found[2] not in UNITS:
        raise VlmlakeError(f"limit is {text!r}, expected bytes as in 500MB or 2GiB, or none")
    return int(float(found[1]) * UNITS[found[2]])


def _target(
    url: str, form: str | None, output: str | None, settings: Mapping[str, Any], own: Mapping[str, Any]
) -> Target:
    """Where the answer goes. Without options of its own, those of the lake are its, where it has the same protocol."""
    from vlmlake.console.answers import Target
    from vlmlake.store_schema.connection import protocol
    from vlmlake.store_schema.storage import Storage

    shared = settings if output is not None and protocol(output) == protocol(url) else {}
    target = Target.of(form, output, own or shared)
    if target.file is not None:
        target.require_outside(Storage.at(url, settings))
    return target


def _require_answer(explain: bool, form: str | None, output: str | None) -> None:
    """Raises VlmlakeError where an answer is to be written that nobody asks for."""
    if explain and (form or output):
        raise VlmlakeError("--explain has no answer to write: leave out --format and --output")


def _answer(
    session: Session, text: str, values: Mapping[str, Any] | None, target: Target, explain: bool, stats: bool
) -> int | None:
    """Answer one statement; how many rows it has, none where it is only explained."""
    from vlmlake.console import errors, terminal
    from vlmlake.console.answers import print_fetched, print_scans
    from vlmlake.console.interruptible import StoppedError, interruptibly

    try:
        if explain:
            print_scans(terminal(), interruptibly(session.connection, lambda: session.explain(text, values)))
            return None
        answer = interruptibly(session.connection, lambda: session.ask(text, values))
    except StoppedError:
        print("vlmlake: stopped", file=sys.stderr)
        raise typer.Exit(130) from None
    target.put(terminal(), answer.table)
    if stats:
        print_fetched(errors(), answer)
    return int(answer.table.num_rows)


def _converse(session: Session, target: Target, stats: bool) -> None:
    from vlmlake.console import terminal
    from vlmlake.console.prompt import SHOWN, Prompt, own_history

    if target.file is not None or target.form not in SHOWN:
        raise VlmlakeError("a prompt has many answers: expected a statement for --output")
    Prompt(session, terminal(), target.form, stats).converse(own_history())


def _from_standard_input() -> tuple[str, ...]:
    from vlmlake.queries.statements import statements

    found = statements(sys.stdin.read())
    if not found:
        raise VlmlakeError("standard input holds no statement: expected SQL there, or as an argument")
    return found
