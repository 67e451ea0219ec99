"""Run analyses over a lake and write what they find, where SQL sees it at once; what has not changed is not computed
again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from importlib.metadata import version
from importlib.resources import files
from typing import Any, Literal

import numpy as np
import polars as pl
import xarray as xr

from vlmlake.analysis.analyses import ANALYSES
from vlmlake.analysis.contract import Analysis
from vlmlake.analysis.findings import Inputs, Shelf, together
from vlmlake.answers.rules import DEFAULT_RULE, require_rule
from vlmlake.errors import NotKeptError, VlmlakeError
from vlmlake.store_schema import tables
from vlmlake.store_schema.index import refresh_index
from vlmlake.store_schema.lake import open_lake
from vlmlake.store_schema.run import Run

ALL = "all"
LARGEST_SEED = 2**32 - 1
"""What scikit-learn takes."""


@dataclass(frozen=True)
class Step:
    """What became of one analysis of one run; seconds: how long it took, when it has ended."""

    run: str
    analysis: str
    state: Literal["started", "unchanged", "done", "refused", "impossible"]
    seconds: float = 0.0


@dataclass(frozen=True)
class Findings:
    """What `analyze` found, with the columns of tables.RESULTS, and why some analyses of some runs refused.

    impossible: of analyses that nobody named, why a run was extracted without what they read.
    """

    table: pl.DataFrame
    refusals: tuple[str, ...]
    impossible: tuple[str, ...]
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

    Raises VlmlakeError for an unknown analysis, rule, run or kind of parameters, a seed out of range, or a lake without
    runs.
    """
    chosen = with_needed(names)
    require_rule(rule)
    if not 0 <= seed <= LARGEST_SEED:
        raise VlmlakeError(f"seed is {seed}, expected 0 to {LARGEST_SEED}")
    settings = _settings(parameters or {})
    lake = open_lake(url, storage_options)
    lake.storage.require_writable()
    runs = [lake.run(run)] if run else [lake.run(name) for name in lake.runs]
    if not runs:
        raise VlmlakeError(f"the lake at {url} has no runs to analyze; `vlmlake extract` writes one")
    steps: list[Step] = []
    refusals: list[str] = []
    impossible: list[str] = []
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
        current: dict[str, Inputs] = {}
        for name in chosen:
            try:
                found.append(subject.findings(ANALYSES[name], settings, current, told))
            except VlmlakeError as error:
                lacking = isinstance(error, NotKeptError) and name not in names
                told(Step(one.name, name, "impossible" if lacking else "refused"))
                kept = "" if lacking or not subject.has(ANALYSES[name]) else "; what was found before is kept"
                (impossible if lacking else refusals).append(f"{name} of {one.name}: {error}{kept}")
    if any(step.state == "done" for step in steps):
        refresh_index(lake.storage)
    asked = set(ANALYSES if ALL in names else names)
    table = pl.concat(found).filter(pl.col("analysis").is_in(asked))
    return Findings(table, tuple(refusals), tuple(impossible), tuple(steps))


def _settings(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of every analysis. Raises VlmlakeError for those of an unknown one, or of another kind."""
    for name, given in parameters.items():
        if name not in ANALYSES:
            raise VlmlakeError(f"parameters of an unknown analysis {name}: expected {', '.join(ANALYSES)}")
        usual = ANALYSES[name].parameters
        if type(given) is not type(usual):
            raise VlmlakeError(f"parameters of {name} are {given!r}, expected a {type(usual).__name__}")
    return {name: parameters.get(name, analysis.parameters) for name, analysis in ANALYSES.items()}


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

    def has(self, analysis: Analysis) -> bool:
        """Whether results of it are there, of whatever inputs."""
        return self.run.storage.exists(self.shelf(analysis).path("results"))

    def inputs(self, analysis: Analysis, parameters: Any, current: Mapping[str, Inputs]) -> Inputs:
        """What decides what the analysis finds. current: what decided the findings of those before it."""
        facts = {
            "content": self.content,
            "examples": hashlib.sha256("\n".join(self.data["example"].values.tolist()).encode()).hexdigest(),
            "parameters": repr(parameters),
            "tables": {table: self.run.findings_digest(table) for table in analysis.tables},
            "after": {name: current[name].findings for name in analysis.after if name in current},
            "code": CODE,
        }
        labelled = {**facts, "rule": self.rule, "seed": self.seed}
        return Inputs(_digest(labelled), _digest(labelled if analysis.labelled else facts))

    def findings(
        self, analysis: Analysis, settings: Mapping[str, Any], current: dict[str, Inputs], tell: Callable[[Step], None]
    ) -> pl.DataFrame:
        """Rows of tables.RESULTS, out of the lake if it has them.

        current: of the analyses whose findings in the lake are those of this run as it is, what decided them; this one
        is added. Numbers of one that refuses the run as it is now are not built upon, whatever it once found.
        """
        parameters = settings[analysis.name]
        shelf, inputs = self.shelf(analysis), self.inputs(analysis, parameters, current)
        step = Step(self.run.name, analysis.name, "started")
        tell(step)
        kept = shelf.kept(inputs)
        if kept is not None:
            step = replace(step, state="unchanged")
        else:
            started = time.monotonic()
            given = [shelf.beside(ANALYSES[name]).metrics() for name in analysis.after if name in current]
            numbers = together(given) if analysis.after else None
            rows = {table: self.run.findings(table) for table in analysis.tables}
            found = analysis(self.data, self.rule, self.seed, parameters, numbers, rows)
            without = [name for name in analysis.after if name not in current]
            notes = [self.note, f"without {', '.join(without)}" if without else None]
            shelf.write(found, self.passport(analysis, settings), notes, inputs)
            step = replace(step, state="done", seconds=time.monotonic() - started)
            kept = shelf.kept(inputs)
        if kept is None:
            raise VlmlakeError("another `analyze` replaced the findings meanwhile; run it again")
        current[analysis.name] = inputs
        tell(step)
        return kept

    def passport(self, analysis: Analysis, settings: Mapping[str, Any]) -> dict[str, str | None]:
        """What the results say of how they were made."""
        changed = [f"seed={self.seed}"] if self.seed else []
        for name in with_needed([analysis.name]):
            usual = ANALYSES[name].parameters
            changed += [
                f"{name}.{one.name}={getattr(settings[name], one.name)}"
                for one in fields(usual)
                if getattr(settings[name], one.name) != getattr(usual, one.name)
            ]
        return {"settings": "; ".join(changed) or None, "content": content_id(self.content), "code": CODE}


def content_id(content: str) -> str:
    """Of Run.content as much as results say."""
    return content[:8]


def _digest(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _code_id() -> str:
    """Package version and a digest of every source file of this room and of the label rules: whatever may change a
    number changes the id.
    """
    digest = hashlib.sha256()
    sources = [*sorted(_sources(files("vlmlake.analysis"))), *sorted(_sources(files("vlmlake.answers")))]
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
