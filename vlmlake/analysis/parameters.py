"""Parameters of analyses as they are typed: ANALYSIS.NAME=VALUE."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from vlmlake.analysis.analyses import ANALYSES
from vlmlake.errors import VlmlakeError


def parameters_of(given: Sequence[str]) -> Mapping[str, Any]:
    """The parameters of every analysis, its own defaults but for what is given.

    given: as in `probes.folds=10`; values are JSON, or text.

    Raises VlmlakeError for an unknown analysis or parameter, or a value of another kind than the default's.
    """
    found = {name: analysis.parameters for name, analysis in ANALYSES.items()}
    for text in given:
        place, equals, value = text.partition("=")
        analysis, dot, name = place.partition(".")
        if not (equals and dot and name):
            raise VlmlakeError(f"--set {text}: expected ANALYSIS.PARAMETER=VALUE, as in probes.folds=10")
        if analysis not in found:
            raise VlmlakeError(f"--set {text}: unknown analysis {analysis}, expected one of {', '.join(found)}")
        known = asdict(found[analysis])
        if name not in known:
            there = ", ".join(known) or "none"
            raise VlmlakeError(f"--set {text}: {analysis} has no parameter {name}; there are: {there}")
        found[analysis] = replace(found[analysis], **{name: _like(known[name], value, text)})
    return found


def _like(default: Any, value: str, text: str) -> Any:
    """The value, of the default's kind."""
    try:
        read = json.loads(value)
    except ValueError:
        read = value
    if isinstance(default, tuple):
        read = tuple(read) if isinstance(read, list) else tuple(str(read).split(","))
    elif isinstance(default, float) and type(read) is int:
        read = float(read)
    elif isinstance(default, str):
        read = value
    if default is not None and type(read) is not type(default):
        raise VlmlakeError(f"--set {text}: {value} is no {type(default).__name__}, as {default!r} is")
    return read
