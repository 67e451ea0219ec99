"""Whether the fields of a run.json can be: types, bounds and labels, before anything is made of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from math import prod
from typing import Any

from vlmlake.store_schema.schema import ARRAYS, STORED_DTYPES, Extents

MOST_BATCHES = 10**6
LONGEST_AXIS = 10**9
LARGEST_SHARD = 2**40
"""In bytes, before compression."""

LAYER = re.compile(r"embed|block_[0-9]{1,9}")
POSITION = re.compile(r"prompt_last|answer_[0-9]{1,9}")
ARRAY = re.compile("|".join(spec.name for spec in ARRAYS))


def require_fields(record: Mapping[str, Any]) -> None:
    """Raises ValueError naming the first field that no run has so, KeyError for one that is missing."""
    _require(isinstance(record["model"], str), "model", record["model"], "a name")
    for name in ("identity", "final_norm", "versions"):
        _require(isinstance(record[name], dict), name, record[name], "an object")
    for name in ("examples", "rows"):
        _require_count(name, record[name], LONGEST_AXIS * MOST_BATCHES)
    _require(record["stored_dtype"] in STORED_DTYPES, "stored_dtype", record["stored_dtype"], f"one of {STORED_DTYPES}")
    extents = _extents(record["extents"])
    _require_labels("arrays", record["arrays"], ARRAY)
    for name, form, length in (("layers", LAYER, extents.layers), ("positions", POSITION, extents.positions)):
        _require_labels(name, record[name], form)
        _require(len(record[name]) == length, name, record[name], f"{length} of them, as extents says")
    _require_shards(extents, record["stored_dtype"], record["arrays"])


def _extents(told: Any) -> Extents:
    names = [field.name for field in fields(Extents)]
    _require(isinstance(told, dict) and sorted(told) == sorted(names), "extents", told, f"an object of {names}")
    for name in names:
        _require_count(f"extents.{name}", told[name], MOST_BATCHES if name == "batches" else LONGEST_AXIS)
    return Extents(**told)


def _require_shards(extents: Extents, stored: str, arrays: Sequence[str]) -> None:
    for spec in (spec for spec in ARRAYS if spec.name in arrays):
        # Before the layout is made, which takes its time for what is no shard.
        elements = prod(extents.shard(dimension) for dimension in spec.dimensions)
        size = elements * spec.dtype(stored).itemsize
        _require(size <= LARGEST_SHARD, f"a shard of {spec.name}", f"{size} bytes", f"at most {LARGEST_SHARD}")


def _require_count(name: str, value: Any, most: int) -> None:
    _require(type(value) is int and 1 <= value <= most, name, value, f"a whole number from 1 to {most}")


def _require_labels(name: str, labels: Any, form: re.Pattern[str]) -> None:
    sound = isinstance(labels, list) and all(isinstance(one, str) and form.fullmatch(one) for one in labels)
    _require(sound and len(set(labels)) == len(labels), name, labels, "a list of different known names")


def _require(sound: bool, name: str, value: Any, expected: str) -> None:
    if not sound:
        raise ValueError(f"{name} is {str(value)[:100]!r}, expected {expected}")
