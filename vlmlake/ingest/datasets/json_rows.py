"""Rows of a JSON file, JSON Lines or one array, each with the words that say where it stands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from vlmlake.errors import VlmlakeError


def json_rows(name: str, content: bytes, wanted: str) -> Iterator[tuple[str, Any]]:
    """Pairs (where, row) of the file called `name`; a line is ended by a newline only. wanted: what a row should be.

    Raises VlmlakeError naming the line for what is no UTF-8 text or no JSON.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise VlmlakeError(f"{name} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    if text.lstrip().startswith("["):
        yield from _array_items(name, text, wanted)
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield f"{name}, line {number}", json.loads(line)
            except (ValueError, RecursionError) as error:
                reason = getattr(error, "msg", error)
                raise VlmlakeError(f"{name}, line {number}: not valid JSON ({reason}); {wanted}") from error


def _array_items(name: str, text: str, wanted: str) -> Iterator[tuple[str, Any]]:
    try:
        items = json.loads(text)
    except (ValueError, RecursionError) as error:
        line, reason = getattr(error, "lineno", 1), getattr(error, "msg", error)
        raise VlmlakeError(f"{name}, line {line}: not valid JSON ({reason}); {wanted}") from error
    for number, item in enumerate(items, start=1):
        yield f"{name}, item {number}", item
