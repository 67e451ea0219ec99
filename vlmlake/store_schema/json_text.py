"""JSON that others wrote."""

from __future__ import annotations

import json
from typing import Any


def parse(text: str | bytes) -> Any:
    """Raises ValueError for what is not JSON, or is nested deeper than Python follows."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
