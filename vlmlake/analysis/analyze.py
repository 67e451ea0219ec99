"""Run analyses over a lake and write what they find, where SQL sees it at once; what has not changed is not computed
again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.resources import files
from typing import Any, Literal

import numpy as np
import polars as pl
import xarray as xr

from vlmlake.analysis.analyses import ANALYSES
from vlmlake.analysis.contract import Analysis
from vlmlake.analysis.findings import Shelf, together
from vlmlake.analysis.rules import DEFAULT_RULE, require_rule
from vlmlake.errors import VlmlakeError
from vlmlake.store_schema import tables
from vlmlake.store_schema.index import refresh_index
from vlmlake.store_schema.lake import open_lake
from vlmlake.store_schema.run import Run

ALL = "all"


@dataclass(frozen=True)
class Step:
    """What became of one analysis of one run; seconds: how long it took, when it has ended."""

    run: str
    analysis: str
    state: Literal["started", "unchanged", "done", "refused"]
    seconds: float = 0.0


@dataclass(frozen=True)
class Findings:
    """What `analyze` found, with the columns of tables.RESULTS, and why some analyses of some runs refused."""

    table: pl.DataFrame
    refusals: tuple[str, ...]
    steps: tuple[Step, ...]

    def raise_refusals(self) -> None:
        """Raises VlmlakeError with all refusals, if there are any."""
        if self.refusals:
            raise VlmlakeError("; ".join(self.refusals))


@dataclass(frozen=True)
class Condition:
    """where: an SQL condition on examples, as it was written. examples: of each run the ids that it is true of."""

    where: str
    examples: Mapping[str, Sequence[str]]


def analyze(
    url: str,
    names: Sequence[str] = (ALL,),
    run: str | None = None,
    rule: str = DEFAULT_RULE,
    seed: int = 0,
    parameters: Mapping[str, Any] | None = None,
    condition: Condition | None = None,
    storage_options: Mapping[str, Any] | None = None,
    tell: Callable[[Step], None] = lambda step: None,
) -> Findings:
    """Run the named analyses on one run, or on all runs of the lake, under one label rule.

    An analysis whose data, parameters and code are those of the findings that are there is not run again; else its
    findings replace those of the same rule and condition. What it builds on is run before it. One that refuses a run's
    data does not keep the others from running. Tasks go to the Dask scheduler that is in force.

    parameters: by the name of an analysis, in place of its own defaults. tell: is told of every step.

    Raises VlmlakeError for an unknown analysis, rule or run, a negative seed, or a lake without runs.
    """
    chosen = with_needed(names)
    require_rule(rule)
    if seed < 0:
        raise VlmlakeError(f"seed is {seed}, expected 0 or more")
    settings = {name: (parameters or {}).get(name, ANALYSES[name].parameters) for name in chosen}
    lake = open_lake(url, storage_options)
    lake.storage.require_writable()
    runs = [lake.run(run)] if run else [lake.run(name) for name in lake.runs]
    if not runs:
        raise VlmlakeError(f"the lake at {url} has no runs to analyze; `vlmlake extract` writes one")
    steps: list[Step] = []
    refusals: list[str] = []
    found = [tables.frame(tables.RESULTS.empty_table())]

    def told(step: Step) -> None:
        steps.append(step)
        tell(step)

    for one in runs:
        try:
            subject = _Subject.of(one, rule, seed, condition)
        except VlmlakeError as error:
            refusals.append(str(error))
            continue
        current: dict[str, str] = {}
        for name in chosen:
            try:
                found.append(subject.findings(ANALYSES[name], settings[name], current, told))
            except VlmlakeError as error:
                told(Step(one.name, name, "refused"))
                refusals.append(f"{name} of {one.name}: {error}")
    refresh_index(lake.storage)
    asked = set(ANALYSES if ALL in names else names)
    table = pl.concat(found).filter(pl.col("analysis").is_in(asked))
    return Findings(table, tuple(refusals), tuple(steps))


def with_needed(names: Sequence[str]) -> list[str]:
    """These analyses and those that they build on, in an order in which each comes after what it needs.

    Raises VlmlakeError for an unknown one.
    """
    unknown = [name for name in names if name not in (*ANALYSES, ALL)]
    if unknown:
        raise VlmlakeError(f"unknown analysis {', '.join(unknown)}: expected {', '.join(ANALYSES)} or {ALL}")
    needed = set(ANALYSES if ALL in names else names)
    for analysis in reversed(ANALYSES.values()):
        if analysis.name in needed:
            needed.update(analysis.after)
    return [name for name in ANALYSES if name in needed]


@dataclass(frozen=True)
class _Subject:
    """One run, or the examples of it that a condition is true of, to be analyzed under one rule and seed."""

    run: Run
    data: xr.Dataset
    content: str
    rule: str
    seed: int
    where: str | None
    note: str | None

    @classmethod
    def of(cls, run: Run, rule: str, seed: int, condition: Condition | None) -> _Subject:
        data = run.dataset()
        done, planned = run.batches_done, run.record.extents.batches
        if data.sizes["example"] == 0:
            raise VlmlakeError(f"{run.name} has no committed examples yet, run `vlmlake extract` to its end")
        if condition:
            data = data.isel(example=np.flatnonzero(np.isin(data["example"].values, condition.examples[run.name])))
            if data.sizes["example"] == 0:
                raise VlmlakeError(f"{run.name} has no example where {condition.where}")
        note = f"{done} of {planned} batches" if done < planned else None
        return cls(run, data, run.content(), rule, seed, condition.where if condition else None, note)

    def shelf(self, analysis: Analysis) -> Shelf:
        return Shelf(self.run.storage, analysis.name, self.run.name, self.rule, self.where, analysis.labelled)

    def inputs(self, analysis: Analysis, parameters: Any, current: Mapping[str, str]) -> str:
        """A digest of everything that decides what the analysis finds. current: such digests of those before it."""
        facts = {
            "content": self.content,
            "examples": hashlib.sha256("\n".join(self.data["example"].values.tolist()).encode()).hexdigest(),
            "rule": self.rule,
            "seed": self.seed,
            "parameters": repr(parameters),
            "after": {name: current.get(name) for name in analysis.after},
            "code": CODE,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def findings(
        self, analysis: Analysis, parameters: Any, current: dict[str, str], tell: Callable[[Step], None]
    ) -> pl.DataFrame:
        """Rows of tables.RESULTS, out of the lake if it has them.

        current: of the analyses whose findings in the lake are those of this run as it is, what decided them; this one
        is added. Numbers of one that refuses the run as it is now are not built upon, whatever it once found.
        """
        shelf, inputs = self.shelf(analysis), self.inputs(analysis, parameters, current)
        step = Step(self.run.name, analysis.name, "started")
        tell(step)
        if shelf.inputs() == inputs:
            step = replace(step, state="unchanged")
        else:
            started = time.monotonic()
            given = [shelf.beside(ANALYSES[name]).metrics() for name in analysis.after if name in current]
            metrics = together(given) if analysis.after else None
            shelf.write(analysis(self.data, self.rule, self.seed, parameters, metrics), [self.note], CODE, inputs)
            step = replace(step, state="done", seconds=time.monotonic() - started)
        current[analysis.name] = inputs
        tell(step)
        return shelf.results()


def _code_id() -> str:
    """Package version and a digest of every source file of this room: whatever may change a number changes the id."""
    digest = hashlib.sha256()
    sources = sorted(path for path in _sources(files("vlmlake.analysis")))
    for _, content in sources:
        digest.update(content)
    return f"vlmlake.analysis {version('vlmlake')}+{digest.hexdigest()[:8]}"


def _sources(folder: Any, prefix: str = "") -> list[tuple[str, bytes]]:
    found = []
    for entry in folder.iterdir():
        if entry.is_dir():
            found += _sources(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(".py"):
            found.append((prefix + entry.name, entry.read_bytes()))
    return found


CODE = _code_id()
