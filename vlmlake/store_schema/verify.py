"""Look at every byte of a lake, and at every value whether it can be: what is wrong is collected, not raised."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from vlmlake.errors import DamagedError, VlmlakeError
from vlmlake.store_schema import paths
from vlmlake.store_schema.batch_list import read_batch_list
from vlmlake.store_schema.check_rows import check_rows
from vlmlake.store_schema.check_run import check_findings, check_index, check_run
from vlmlake.store_schema.check_shard import ReadShard, read_shard
from vlmlake.store_schema.check_values import Batch, check_largest, check_values
from vlmlake.store_schema.commit import Commit
from vlmlake.store_schema.commits import look, withdraw
from vlmlake.store_schema.index import listed_index, refresh_index, written_index
from vlmlake.store_schema.inside import BatchLengths
from vlmlake.store_schema.lake import Lake
from vlmlake.store_schema.run import Run
from vlmlake.store_schema.run_record import RunRecord, read_record
from vlmlake.store_schema.schema import ArraySpec
from vlmlake.store_schema.storage import Storage
from vlmlake.store_schema.verdict import Looked, Problem, Verdict

ROLES_OF_PREFIX = "prefix_token_role"

Report = Callable[[str, int, int], None]
"""Is told a run's name, how many of its batches were looked at, and of how many."""


def _silently(run: str, done: int, total: int) -> None:
    pass


def verify(lake: Lake, run: str | None = None, report: Report = _silently) -> list[Verdict]:
    """One verdict for every run, or for one by its name or its model's, and one for what all runs share.

    Raises UnknownNameError if there is no such run.
    """
    if run is not None:
        try:
            one = lake.run(run)
        except DamagedError as error:
            return [Verdict(run, problems=(Problem(run, None, None, str(error)),))]
        return [verify_run(one, report)]
    try:
        index = lake.index()
    except DamagedError as error:
        return [Verdict(None, problems=(Problem(None, None, None, str(error)),))]
    verdicts = [_verify_named(lake.storage, name, report) for name in index.runs]
    orphans = [path for path in index.findings if path.split("/")[2] not in index.runs]
    shared = [*check_index(lake.storage), *check_findings(lake.storage, orphans)]
    return [*verdicts, Verdict(None, problems=tuple(shared))]


def verify_run(run: Run, report: Report = _silently) -> Verdict:
    """Every committed batch of a run and what it has beside them; one shard is in memory at a time.

    Over the web, the batches of its batch list.
    """
    check = _RunCheck(run.storage, run.record)
    check.beside()
    check.batches(report)
    return Verdict(run.name, check.looked, tuple(check.problems))


def withdraw_broken(storage: Storage, verdicts: Iterable[Verdict]) -> Mapping[str, tuple[int, ...]]:
    """Take back the commits of all batches with problems, so that `vlmlake extract` computes them again; says which, by
    run. Each is looked at once more: it may have been mended since.

    Raises VlmlakeError over the web.
    """
    storage.require_writable()
    taken = {}
    for verdict in (verdict for verdict in verdicts if verdict.run and verdict.broken):
        record = read_record(storage, str(verdict.run))
        still = tuple(number for number in verdict.broken if _is_broken(storage, record, number))
        withdraw(storage, record, still)
        if still:
            taken[record.name] = still
    if taken:
        refresh_index(storage)
    return taken


def _is_broken(storage: Storage, record: RunRecord, number: int) -> bool:
    check = _RunCheck(storage, record)
    check.batch(number, None)
    return bool(check.problems)


def _verify_named(storage: Storage, name: str, report: Report) -> Verdict:
    try:
        record = read_record(storage, name)
    except (VlmlakeError, FileNotFoundError) as error:
        return Verdict(name, problems=(Problem(name, None, None, str(error)),))
    return verify_run(Run(storage, record), report)


@dataclass
class _RunCheck:
    """What was found so far. examples: the batch that each is in; rows: how many distinct questions there are."""

    storage: Storage
    record: RunRecord
    looked: Looked = field(default_factory=Looked)
    problems: list[Problem] = field(default_factory=list)
    examples: dict[str, int] = field(default_factory=dict)
    rows: int = 0

    def note(self, batch: int | None, array: str | None, *whats: str) -> None:
        self.problems += [Problem(self.record.name, batch, array, what) for what in whats]

    def beside(self) -> None:
        looked, problems = check_run(self.storage, self.record)
        self.looked += looked
        self.problems += problems
        try:
            index = listed_index(self.storage) if self.storage.listable else written_index(self.storage)
            own = [path for path in index.findings if path.split("/")[2] == self.record.name]
            self.problems += check_findings(self.storage, own)
        except DamagedError as error:
            self.note(None, None, str(error))

    def batches(self, report: Report) -> None:
        try:
            listed = read_batch_list(self.storage, self.record)
        except DamagedError as error:
            listed = None
            self.note(None, None, str(error))
        try:
            state = look(self.storage, self.record, fresh=self.storage.listable)
        except VlmlakeError as error:
            self.note(None, None, *([] if str(error) in {problem.what for problem in self.problems} else [str(error)]))
            return
        for number in sorted(state.damaged):
            self.note(number, None, state.broken[number])
        numbers = sorted({*state.committed, *state.broken} - state.damaged)
        for done, number in enumerate(numbers):
            report(self.record.name, done, len(numbers))
            self.batch(number, listed)
            if number in state.broken and not any(problem.batch == number for problem in self.problems):
                self.note(number, None, state.broken[number])
        report(self.record.name, len(numbers), len(numbers))
        self.whole_run(numbers, listed)

    def batch(self, number: int, listed: Mapping[int, tuple[int, Commit]] | None) -> None:
        path = paths.batch(self.record.name, number)
        try:
            content = self.storage.read(path)
            commit = Commit.decode(content, self.record.name, number, f"{path} of {self.storage.url}")
        except FileNotFoundError:
            self.note(number, None, f"{path} is missing")
            return
        except DamagedError as error:
            self.note(number, None, str(error))
            return
        if listed is not None:
            self.against_list(listed.get(number), commit, len(content))
        self.looked += Looked(batches=1, examples=commit.rows.num_rows)
        faults = check_rows(self.record, commit)
        self.note(number, None, *faults, *self.twice(commit))
        self.arrays(commit, None if faults else BatchLengths.of(commit.rows))

    def against_list(self, told: tuple[int, Commit] | None, commit: Commit, size: int) -> None:
        where = paths.batch_list(self.record.name)
        if told is None:
            self.note(None, None, f"{where} lacks batch {commit.batch}")
        elif told[0] != size or told[1].shards != commit.shards or not told[1].rows.equals(commit.rows):
            self.note(None, None, f"{where} is stale: it says otherwise of batch {commit.batch} than its commit")

    def twice(self, commit: Commit) -> list[str]:
        """Notes the batch's examples; what is said of those that were there already."""
        self.rows += len(set(commit.rows["row"].to_pylist()))
        found = []
        for example in commit.rows["example"].to_pylist():
            if example in self.examples:
                found.append(f"its example {example} is in batch {self.examples[example]} already")
            self.examples[example] = commit.batch
        return found[:1]

    def arrays(self, commit: Commit, lengths: BatchLengths | None) -> None:
        """Roles of the prefix first: they say where cells of the image are. lengths: none where they cannot be."""
        roles: np.ndarray | None = None
        for spec in sorted(self.record.batch_specs, key=lambda spec: spec.name != ROLES_OF_PREFIX):
            facts = commit.shards.get(spec.name)
            if facts is None:
                self.note(commit.batch, spec.name, "its commit says nothing of it")
                continue
            shard = read_shard(self.storage, self.record, spec, commit.batch, facts)
            self.shard(commit.batch, spec, shard)
            if shard.values is None:
                continue
            if spec.name == ROLES_OF_PREFIX:
                roles = shard.values
            self.note(commit.batch, spec.name, *check_largest(spec, self.record, shard.values, facts.largest))
            if lengths is not None:
                batch = Batch(self.record, commit.batch, lengths, roles)
                self.note(commit.batch, spec.name, *check_values(spec, batch, shard.values))

    def shard(self, number: int, spec: ArraySpec, shard: ReadShard) -> None:
        self.looked += shard.looked
        self.note(number, spec.name, *shard.problems)

    def whole_run(self, numbers: list[int], listed: Mapping[int, tuple[int, Commit]] | None) -> None:
        """What concerns all batches together: those that the list has and are not there, and how many examples."""
        record, where = self.record, paths.batch_list(self.record.name)
        gone = sorted((listed or {}).keys() - set(numbers))
        self.note(None, None, *(f"{where} has batch {number}, whose commit is not there" for number in gone))
        missing = record.extents.batches - len(numbers)
        if listed is not None and missing and not gone:
            self.note(None, None, f"{where} is there, and {missing} of {record.extents.batches} batches are not")
        if self.looked.batches == record.extents.batches and (len(self.examples), self.rows) != (
            record.examples,
            record.rows,
        ):
            self.note(
                None,
                None,
                f"{len(self.examples)} examples of {self.rows} questions are in its batches, its record says "
                f"{record.examples} of {record.rows}",
            )
