"""Run analyses over a lake and write what they find under `results/`, where SQL sees it at once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import polars as pl

from vlmlake.analysis import ANALYSES
from vlmlake.analysis.labels import DEFAULT_RULE, require_rule
from vlmlake.analysis.samples import joined
from vlmlake.errors import VlmlakeError
from vlmlake.store_schema import paths, tables
from vlmlake.store_schema.index import refresh_index
from vlmlake.store_schema.lake import open_lake


@dataclass(frozen=True)
class Findings:
    """What `analyze` wrote, with the columns of tables.RESULTS, and why some analyses of some runs refused."""

    table: pl.DataFrame
    refusals: tuple[str, ...]

    def raise_refusals(self) -> None:
        """Raises VlmlakeError with all refusals, if there are any."""
        if self.refusals:
            raise VlmlakeError("; ".join(self.refusals))


def analyze(
    url: str,
    names: Sequence[str] = tuple(ANALYSES),
    run: str | None = None,
    rule: str = DEFAULT_RULE,
    seed: int = 0,
    storage_options: Mapping[str, Any] | None = None,
) -> Findings:
    """Run the named analyses on one run, or on all runs of the lake, under one label rule.

    A result replaces the one that the same analysis found before in the same run under the same rule. An analysis that
    refuses a run's data does not keep the others from running.

    Raises VlmlakeError for an unknown analysis, rule or run, a negative seed, or a lake without runs.
    """
    unknown = [name for name in names if name not in ANALYSES]
    if unknown:
        raise VlmlakeError(f"unknown analysis {', '.join(unknown)}: expected {', '.join(ANALYSES)}")
    require_rule(rule)
    if seed < 0:
        raise VlmlakeError(f"seed is {seed}, expected 0 or more")
    lake = open_lake(url, storage_options)
    lake.storage.require_writable()
    runs = [lake.run(run)] if run else [lake.run(name) for name in lake.runs]
    if not runs:
        raise VlmlakeError(f"the lake at {url} has no runs to analyze; `vlmlake extract` writes one")
    written: list[dict[str, Any]] = []
    refusals: list[str] = []
    for one in runs:
        done, planned = one.batches_done, one.record.extents.batches
        unfinished = f"{done} of {planned} batches" if done < planned else None
        data = one.dataset()
        if data.sizes["example"] == 0:
            refusals.append(f"{one.name} has no committed examples yet, run `vlmlake extract` to its end")
            continue
        for name in names:
            try:
                found = ANALYSES[name](data, rule, seed)
            except VlmlakeError as error:
                refusals.append(f"{name} of {one.name}: {error}")
                continue
            rows = [{**row, "analysis": name, "code": CODE, "note": joined(row["note"], unfinished)} for row in found]
            lake.storage.write(paths.results(name, one.name, rule), tables.to_parquet(rows, tables.RESULTS))
            written += rows
    refresh_index(lake.storage)
    table = pl.DataFrame(written, schema=list(tables.RESULTS.names), infer_schema_length=None)
    return Findings(table, tuple(refusals))


def _code_id() -> str:
    """Package version and a digest of every source file of this room: whatever may change a number changes the id."""
    digest = hashlib.sha256()
    for file in sorted(files("vlmlake.analysis").iterdir(), key=lambda file: file.name):
        if file.name.endswith(".py"):
            digest.update(file.read_bytes())
    return f"vlmlake.analysis {version('vlmlake')}+{digest.hexdigest()[:8]}"


CODE = _code_id()
