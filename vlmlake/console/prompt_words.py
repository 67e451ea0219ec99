"""What Tab offers at the prompt: commands, questions of the shelf with their parameters, tables, columns, SQL."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from vlmlake.queries.shelf import shelf

SQL = """
all and as asc asof avg between by case cast count cross cube desc describe distinct else end except exists
explain false filter from full group grouping having ilike in inner intersect is join last lateral left like
limit max min not null nulls offset on or order outer over partition pivot qualify right rollup row_number
sample select semi set sets show sum summarize then true union unnest unpivot using values when where window
with
"""
KEYWORDS = tuple(SQL.split())
WORD = re.compile(r"[.\w-]*$")
NAME = re.compile(r"\w*$")


@dataclass(frozen=True)
class Words(Completer):
    """commands: of the prompt, each with the words that may follow. tables: columns by table."""

    commands: Mapping[str, Sequence[str]]
    tables: Mapping[str, Sequence[str]]

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        before = document.text_before_cursor
        is_command = before.startswith(".") and not before.startswith(".explain ")
        found = WORD.search(before) if is_command else NAME.search(before)
        begun = found.group() if found else ""
        for word in self._offered(before, is_command):
            if word.lower().startswith(begun.lower()):
                yield Completion(word, start_position=-len(begun))

    def _offered(self, before: str, is_command: bool) -> Sequence[str]:
        if not is_command:
            return self._sql(before)
        name, *rest = before.split(" ")
        if not rest:
            return tuple(self.commands)
        if name == ".run" and len(rest) > 1:
            query = next((one for one in shelf() if one.name == rest[0]), None)
            return tuple(f"{one.name}=" for one in query.parameters) if query else ()
        return self.commands.get(name, ()) if len(rest) == 1 else ()

    def _sql(self, before: str) -> tuple[str, ...]:
        """Columns of the tables that are named so far come first, or of all where none is."""
        named = [table for table in self.tables if re.search(rf"\b{re.escape(table)}\b", before, re.IGNORECASE)]
        columns = [column for table in named or self.tables for column in self.tables[table]]
        return tuple(dict.fromkeys([*columns, *self.tables, *KEYWORDS]))
