"""Run analyses over a lake and write what they find under `results/`, where SQL sees it at once."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import polars as pl

from vlmlake.analysis import ANALYSES
from vlmlake.analysis.labels import DEFAULT_RULE
from vlmlake.errors import VlmlakeError
from vlmlake.store_schema import paths, tables
from vlmlake.store_schema.lake import open_lake


def analyze(
    url: str,
    names: Sequence[str] = tuple(ANALYSES),
    run: str | None = None,
    rule: str = DEFAULT_RULE,
    seed: int = 0,
    storage_options: Mapping[str, Any] | None = None,
) -> pl.DataFrame:
    """Run the named analyses on one run, or on all runs of the lake; a result replaces the one before it.

    Returns the rows written, with the columns of tables.RESULTS.

    Raises VlmlakeError for an unknown analysis or run, a lake without runs, or data that an analysis refuses.
    """
    unknown = [name for name in names if name not in ANALYSES]
    if unknown:
        raise VlmlakeError(f"unknown analysis {', '.join(unknown)}: expected {', '.join(ANALYSES)}")
    lake = open_lake(url, storage_options)
    runs = [lake.run(run)] if run else [lake.run(name) for name in lake.runs]
    if not runs:
        raise VlmlakeError(f"the lake at {url} has no runs to analyze; `vlmlake extract` writes one")
    written: list[dict[str, Any]] = []
    for one in runs:
        data = one.dataset()
        if data.sizes["example"] == 0:
            raise VlmlakeError(f"run {one.name} has no committed examples yet: run `vlmlake extract` to its end")
        for name in names:
            passport = {"analysis": name, "code": _code_id(name)}
            rows = [{**row, **passport} for row in ANALYSES[name](data, rule, seed)]
            lake.storage.write(paths.results(name, one.name), tables.to_parquet(rows, tables.RESULTS))
            written += rows
    return pl.DataFrame(written, schema=list(tables.RESULTS.names), infer_schema_length=None)


def _code_id(name: str) -> str:
    """Package version and a digest of the analysis's source file."""
    source = inspect.getsource(inspect.getmodule(ANALYSES[name]) or ANALYSES[name])
    return f"{name}@{version('vlmlake')}+{hashlib.sha256(source.encode()).hexdigest()[:8]}"
