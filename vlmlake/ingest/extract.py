"""The pass: a model, data and a lake in; committed batches out. Running it again does what is still missing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from vlmlake.ingest.assemble import Finished, Scratch, batch_arrays
from vlmlake.ingest.families import Family, load_family
from vlmlake.ingest.first_batch import check_first_batch
from vlmlake.ingest.generation import run_batch
from vlmlake.ingest.job import Job
from vlmlake.ingest.loader import load_ahead
from vlmlake.ingest.model_identity import model_identity
from vlmlake.ingest.record import once_arrays
from vlmlake.ingest.room import require_room
from vlmlake.ingest.rows import batch_rows, skipped_rows
from vlmlake.ingest.work import plan_work, survey_job
from vlmlake.ingest.writer import ENCODERS, BackgroundWriter
from vlmlake.store_schema.commits import commit_batch, create_run, look, record_skipped, run_exists, withdraw
from vlmlake.store_schema.finish import UnfinishedError, finish
from vlmlake.store_schema.index import listed_index
from vlmlake.store_schema.lake import create_lake, refuse_foreign_lake
from vlmlake.store_schema.run_record import RunRecord, read_record
from vlmlake.store_schema.storage import Storage
from vlmlake.store_schema.workers import Note, Worker, write_note

CONTENT = (("model", "the model's files"), ("dataset", "the data"))
"""Parts of a run's identity that may change while the command names them as before."""


@dataclass(frozen=True)
class Progress:
    """How far a pass is. done, total: distinct (image, question) pairs of this worker, computed and in all; written:
    bytes by this pass; seconds since it began to compute, and those of them that the model waited for the writer.
    """

    run: str
    done: int
    total: int
    written: int
    seconds: float
    waited: float


@dataclass(frozen=True)
class Outcome:
    """What a pass ended with. examples: all of the run's, of which `rows` are distinct and are computed; computed:
    those that this pass computed; skipped: examples left out for a broken image. missing: batches that other workers
    have not committed yet; the run is finished where there are none.
    """

    run: str
    examples: int
    rows: int
    computed: int
    skipped: int
    missing: int
    written: int
    seconds: float
    waited: float


def extract(
    job: Job,
    report: Callable[[Progress], None] = lambda progress: None,
    family: Family | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> Outcome:
    """Run what the lake does not hold yet and commit it batch by batch; with the last batch the run is finished.

    report is called once when the run is known and after every commit, from a background thread. family: the job's
    model where it is loaded already. tell: is told what the user should know beforehand.

    Raises VlmlakeError for bad input before anything is computed, and where a batch that was committed is not visible
    at the end; batches committed before an error stay.
    """
    refuse_foreign_lake(job.lake, job.storage_options)
    survey = survey_job(job)
    family = family or load_family(job.model)
    work = plan_work(job, family, survey.examples, survey.facts, model_identity(job.model, family.model))
    storage = Storage.at(job.lake, job.storage_options)
    record = work.record
    exists = run_exists(storage, record)
    missing = _take_up(storage, record, job.worker, tell) if exists else _owned(job.worker, range(len(work.batches)))
    require_room(storage, job, family, work, missing, exists)

    storage = create_lake(job.lake, job.storage_options).storage
    if not exists:
        _tell_of_others(storage, record, tell)
    own = sum(len(work.batches[number].examples) for number in _owned(job.worker, range(len(work.batches))))
    computed = sum(len(work.batches[number].examples) for number in missing)
    with BackgroundWriter() as writer:
        commits = _Commits(storage, record, job.worker, scratch=Scratch())
        tally = _Tally(report, record.name, writer, done=own - computed, total=own)
        for batch, asked in load_ahead(work, family, missing):
            forward = run_batch(family, work.wanted, asked, job.decoding, work.shared)
            finished = Finished(record, work.wanted, asked, forward, work.sees_suffix)
            if batch.number == missing[0]:
                check_first_batch(family, finished)
                if not exists:
                    create_run(storage, record, once_arrays(family), family.vocabulary)
            rows = batch_rows(work, family, batch, asked, forward)
            writer.put(partial(_commit, commits, tally, batch.number, finished, rows))
    if run_exists(storage, record):
        record_skipped(storage, record.name, skipped_rows(record.name, survey.skipped))
    return Outcome(
        run=record.name,
        examples=len(work.examples),
        rows=len(work.items),
        computed=computed,
        skipped=len(survey.skipped),
        missing=_finish(storage, record, job.worker),
        written=tally.written,
        seconds=tally.seconds,
        waited=writer.waited,
    )


def _owned(worker: Worker, numbers: Iterable[int]) -> tuple[int, ...]:
    return tuple(number for number in numbers if worker.owns(number))


def _take_up(storage: Storage, record: RunRecord, worker: Worker, tell: Callable[[str], None]) -> tuple[int, ...]:
    """The worker's batches that are not there. Commits of broken ones are taken back."""
    state = look(storage, record, fresh=True)
    missing = _owned(worker, (number for number in range(record.extents.batches) if number not in state.committed))
    for number in missing:
        if number in state.broken:
            tell(f"batch {number} of {record.name} is computed again: {state.broken[number]}")
            withdraw(storage, record, [number])
    return missing


def _tell_of_others(storage: Storage, record: RunRecord, tell: Callable[[str], None]) -> None:
    """A new run of a model that the lake has runs of: what is different now."""
    for name in listed_index(storage).runs:
        there = read_record(storage, name)
        told = [
            words
            for part, words in CONTENT
            if there.versions.get(part) == record.versions[part] and there.identity.get(part) != record.identity[part]
        ]
        if told:
            tell(f"{' and '.join(told)} changed under the same name since run {name}: {record.name} is another run")


def _finish(storage: Storage, record: RunRecord, worker: Worker) -> int:
    """Finish the run if nothing is missing; how many batches of other workers are.

    Raises UnfinishedError if one of the worker's own is.
    """
    try:
        finish(storage, record)
    except UnfinishedError as error:
        if _owned(worker, error.missing):
            raise
        return len(error.missing)
    return 0


class _Tally:
    """Adds up what was committed and reports it; used by the writer's thread only once that has started."""

    def __init__(
        self, report: Callable[[Progress], None], run: str, writer: BackgroundWriter, done: int, total: int
    ) -> None:
        self.run, self.total, self.done, self.written, self.commits = run, total, done, 0, 0
        self._report, self._writer, self._began = report, writer, time.monotonic()
        self._report(self._progress())

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def add(self, rows: int, written: int) -> None:
        self.done += rows
        self.written += written
        self.commits += 1
        self._report(self._progress())

    def _progress(self) -> Progress:
        return Progress(self.run, self.done, self.total, self.written, self.seconds, self._writer.waited)


@dataclass(frozen=True)
class _Commits:
    """Where the batches of a pass go."""

    storage: Storage
    record: RunRecord
    worker: Worker
    scratch: Scratch


def _commit(commits: _Commits, tally: _Tally, number: int, finished: Finished, rows: list[dict[str, object]]) -> None:
    storage, record = commits.storage, commits.record
    write_note(storage, record.name, Note(commits.worker, number, tally.commits, tally.written))
    written = commit_batch(storage, record, number, batch_arrays(finished, commits.scratch), rows, ENCODERS)
    tally.add(len(finished.asked.prompts), written)
    write_note(storage, record.name, Note(commits.worker, None, tally.commits, tally.written))
