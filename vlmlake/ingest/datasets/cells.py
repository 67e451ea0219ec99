"""Single values of a row, checked: a text, an id, an answer. `where` says where the row stands."""

from __future__ import annotations

from typing import Any

from vlmlake.errors import VlmlakeError


def text(where: str, field: str, value: Any) -> str:
    """A text that a file system and a tokenizer can take, not empty. Raises VlmlakeError otherwise."""
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise VlmlakeError(f"{where}: {field} is {_short(value)}, expected a text that is not empty")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise VlmlakeError(
            f"{where}: {field} is {_short(value)}, which is not Unicode text ({error.reason})"
        ) from error
    return value


def identifier(where: str, field: str, value: Any) -> str:
    """A whole number or a text, as a text."""
    return str(value) if type(value) is int else text(where, field, value)


def answer(where: str, field: str, value: Any) -> str | None:
    """A number or a text, as a text; None where the cell is empty: a benchmark may keep its answers to itself."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    return str(value) if type(value) in (int, float) else text(where, field, value)


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
