"""Parameters of analyses as they are typed: ANALYSIS.NAME=VALUE."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

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
        known = get_type_hints(type(found[analysis]))
        if name not in known:
            there = ", ".join(known) or "none"
            raise VlmlakeError(f"--set {text}: {analysis} has no parameter {name}; there are: {there}")
        found[analysis] = replace(found[analysis], **{name: _like(known[name], value, text)})
    return found


def _like(hint: Any, value: str, text: str) -> Any:
    """The value as the parameter's annotation has it."""
    options = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    # Any text is a str, and many a list of them: what is narrower comes first.
    for option in sorted(options, key=lambda one: (one is str, one is not NoneType)):
        listed = value.startswith("[") or "," in value
        if get_origin(option) is tuple and str in options and not listed:
            continue
        try:
            return _as(option, value)
        except ValueError:
            continue
    raise VlmlakeError(f"--set {text}: {value} is no {' or '.join(map(_named, options))}")


def _as(option: Any, value: str) -> Any:
    """Raises ValueError where the text is none of these."""
    if option is str:
        return value
    if get_origin(option) is tuple:
        return tuple(_as(get_args(option)[0], part) for part in _parts(value))
    read = json.loads(value)
    if option is float and type(read) is int:
        read = float(read)
    if type(read) is not option or (option is float and not math.isfinite(read)):
        raise ValueError(value)
    return read


def _parts(value: str) -> list[str]:
    """Those of a JSON list, or of words between commas."""
    if not value.startswith("["):
        return value.split(",")
    return [part if isinstance(part, str) else json.dumps(part) for part in json.loads(value)]


def _named(option: Any) -> str:
    if get_origin(option) is tuple:
        return f"list of {get_args(option)[0].__name__}"
    return "null" if option is NoneType else str(option.__name__)
