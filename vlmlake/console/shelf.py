"""What `queries` shows: the questions of the shelf, or all of one."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from vlmlake.queries.shelf import Parameter, ShelfQuery, shelf


def print_shelf(console: Console) -> None:
    """A line for every question."""
    table = Table("query", "what it answers", box=None)
    for query in shelf():
        table.add_row(query.name, query.title)
    console.print(table)


def print_query(console: Console, query: ShelfQuery) -> None:
    """Title, sentence, parameters, an example, and the statement."""
    console.print(f"{query.name}: {query.title}\n\n{query.sentence}\n")
    table = Table("parameter", "type", "default", "", box=None)
    for one in query.parameters:
        table.add_row(one.name, _type(one), one.default, one.meaning)
    console.print(table)
    if query.needs:
        needed = (one.table if one.table == one.analysis else f"{one.table} of {one.analysis}" for one in query.needs)
        console.print(f"\nneeds: {', '.join(needed)} (vlmlake analyze)")
    console.print(f"\nexample: {query.example}\n\n{query.sql}")


def _type(parameter: Parameter) -> str:
    return parameter.type.replace("|", ", ")
