"""The shelf: questions that everybody asks of a lake, each one SQL statement with parameters, a file of `library/`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Any

from vlmlake.answers.rules import require_rule
from vlmlake.errors import VlmlakeError

NULL = "null"
"""How a parameter is left open."""

TYPES = {
    "text": (r"(?s).*", "text"),
    "count": (r"0*[1-9]\d{0,17}", "a whole number from 1"),
    "index": (r"\d{1,18}", "a whole number from 0"),
    "number": (r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,2})?", "a number"),
    "layer": (r"embed|block_\d+", "embed or block_N"),
    "position": (r"prompt_last|answer_\d+", "prompt_last or answer_N"),
    "run": (r"(?s).+", "a run"),
    "split": (r"(?s).+", "a split"),
    "example": (r"(?s).+", "an example's id"),
    "rule": (r"(?s).+", "a label rule"),
}
"""Of each type of parameter what its values look like, and in words. `a|b` is a type too: one of these."""

PARAMETER = re.compile(r"parameter: (?P<name>\w+) (?P<type>\S+) = (?P<default>\S+): (?P<meaning>.+)")
NEED = re.compile(r"needs: (?P<table>\w+)(?: of (?P<analysis>\w+))?")


@dataclass(frozen=True)
class Parameter:
    """One `$name` of a statement. type: one of TYPES, or its values, as `a|b`. default: as it would be given."""

    name: str
    type: str
    default: str
    meaning: str

    def value(self, text: str) -> Any:
        """What DuckDB is told for a text; None for `null`, where that is the default.

        Raises VlmlakeError for what is none of the type.
        """
        if text == NULL == self.default:
            return None
        pattern, words = TYPES.get(self.type, (self.type, f"one of {', '.join(self.type.split('|'))}"))
        if not re.fullmatch(pattern, text):
            open_too = f", or {NULL}" if self.default == NULL else ""
            raise VlmlakeError(f"parameter {self.name} is {text!r}, expected {words}{open_too}")
        if self.type == "rule":
            require_rule(text)
        if self.type in ("count", "index"):
            return int(text)
        return float(text) if self.type == "number" else text


@dataclass(frozen=True)
class Need:
    """Rows without which a question has no answer: those that an analysis put into a table."""

    table: str
    analysis: str


@dataclass(frozen=True)
class ShelfQuery:
    """One question. sentence: what is answered, and what is counted how; example: a command; sql: one statement."""

    name: str
    title: str
    sentence: str
    parameters: tuple[Parameter, ...]
    needs: tuple[Need, ...]
    example: str
    sql: str

    def bind(self, given: Mapping[str, str]) -> dict[str, Any]:
        """A value for every parameter: the given ones by their type, defaults for the rest.

        Raises VlmlakeError for a name that is no parameter's, and for a value that is none of its type.
        """
        names = [parameter.name for parameter in self.parameters]
        unknown = [name for name in given if name not in names]
        if unknown:
            raise VlmlakeError(
                f"the query {self.name} has no parameter {', '.join(unknown)}: expected one of {', '.join(names)}"
            )
        try:
            return {one.name: one.value(given.get(one.name, one.default)) for one in self.parameters}
        except VlmlakeError as error:
            raise VlmlakeError(f"the query {self.name}: {error}") from error


@cache
def shelf() -> tuple[ShelfQuery, ...]:
    """Every question on the shelf, by name."""
    texts = {file.name: file.read_text("utf-8") for file in (files("vlmlake.queries") / "library").iterdir()}
    return tuple(_read(name.removesuffix(".sql"), texts[name]) for name in sorted(texts) if name.endswith(".sql"))


def shelf_query(name: str) -> ShelfQuery:
    """One of them. Raises VlmlakeError for an unknown name."""
    found = {query.name: query for query in shelf()}
    if name not in found:
        near = get_close_matches(name, found, n=1)
        meant = f"did you mean {near[0]}? " if near else ""
        raise VlmlakeError(f"no query named {name} on the shelf: {meant}There are {', '.join(found)}")
    return found[name]


def named_values(given: Sequence[str]) -> dict[str, str]:
    """Names and values out of k=v. Raises VlmlakeError for anything else, and for a name that comes twice."""
    values: dict[str, str] = {}
    for text in given:
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise VlmlakeError(f"parameter {text!r} is not of the form NAME=VALUE")
        if name in values:
            raise VlmlakeError(f"parameter {name} is given twice")
        values[name] = value
    return values


def _read(name: str, text: str) -> ShelfQuery:
    """A file's comments, then its statement. Of the comments the first line is the title, those with a word and a colon
    at their start are facts, the rest is the sentence.
    """
    lines = text.splitlines()
    length = next(number for number, line in enumerate(lines) if not line.startswith("--"))
    title, *rest = (line.removeprefix("--").strip() for line in lines[:length])
    facts = [line for line in rest if re.match(r"(needs|parameter|example): ", line)]
    parameters = [Parameter(**found.groupdict()) for line in facts if (found := PARAMETER.fullmatch(line))]
    needs = [
        Need(found["table"], found["analysis"] or found["table"]) for line in facts if (found := NEED.fullmatch(line))
    ]
    (example,) = (line.removeprefix("example: ") for line in facts if line.startswith("example: "))
    if len(parameters) + len(needs) + 1 != len(facts):
        raise ValueError(f"{name}.sql: a line of its head is neither a parameter nor a need nor the example")
    return ShelfQuery(
        name=name,
        title=title,
        sentence=" ".join(line for line in rest if line not in facts),
        parameters=tuple(parameters),
        needs=tuple(needs),
        example=example,
        sql="\n".join(lines[length:]).strip(),
    )
