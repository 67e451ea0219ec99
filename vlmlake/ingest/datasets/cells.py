"""Single values of a row, checked: a text, an id, an answer. `where` says where the row stands."""

from __future__ import annotations

import json
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
    """A number or a text, as a text; None where the cell is empty: a benchmark may keep its answers to itself.

    A list, the answers of several annotators, is their JSON text: of the texts themselves, or, as VQA has them, of what
    each annotator's record says under `answer`.
    """
    if value is None or (isinstance(value, str | list) and not (value.strip() if isinstance(value, str) else value)):
        return None
    if isinstance(value, list):
        given = [one.get("answer") if isinstance(one, dict) else one for one in value]
        return json.dumps([_given(where, field, one) for one in given], ensure_ascii=False)
    return _given(where, field, value)


def _given(where: str, field: str, value: Any) -> str:
    return str(value) if type(value) in (int, float) else text(where, field, value)


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
