"""The pass: a model, data and a lake in; committed batches out. Running it again does what is still missing."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from vlmlake.ingest.assemble import Finished, Scratch, batch_arrays
from vlmlake.ingest.datasets import load_dataset
from vlmlake.ingest.datasets.survey import Survey, survey_images
from vlmlake.ingest.families import Family, load_family
from vlmlake.ingest.first_batch import check_first_batch
from vlmlake.ingest.generation import run_batch
from vlmlake.ingest.job import Job
from vlmlake.ingest.loader import load_ahead
from vlmlake.ingest.model_identity import model_identity
from vlmlake.ingest.record import once_arrays
from vlmlake.ingest.room import require_room
from vlmlake.ingest.rows import batch_rows, skipped_rows
from vlmlake.ingest.work import Work, plan_work
from vlmlake.ingest.writer import BackgroundWriter
from vlmlake.store_schema.commits import commit_batch, create_run, missing_batches, record_skipped, run_exists
from vlmlake.store_schema.lake import create_lake, refuse_foreign_lake
from vlmlake.store_schema.storage import Storage


@dataclass(frozen=True)
class Progress:
    """How far a pass is. done, total: distinct (image, question) pairs, computed and in all; written: bytes by this
    pass; seconds since it began to compute, and those of them that the model waited for the writer.
    """

    run: str
    done: int
    total: int
    written: int
    seconds: float
    waited: float


@dataclass(frozen=True)
class Outcome:
    """What a pass ended with. examples: all of the run's, of which `rows` are distinct and were computed; computed:
    those that were not there before; skipped: examples left out for a broken image.
    """

    run: str
    examples: int
    rows: int
    computed: int
    skipped: int
    written: int
    seconds: float
    waited: float


def extract(
    job: Job, report: Callable[[Progress], None] = lambda progress: None, family: Family | None = None
) -> Outcome:
    """Run what the lake does not hold yet and commit it batch by batch.

    report is called once when the run is known and after every commit, from a background thread. family: the job's
    model where it is loaded already.

    Raises VlmlakeError for bad input before anything is computed; batches committed before an error stay.
    """
    refuse_foreign_lake(job.lake, job.storage_options)
    survey = survey_job(job)
    family = family or load_family(job.model)
    work = plan_work(job, family, survey.examples, survey.facts, model_identity(job.model, family.model))
    storage = Storage.at(job.lake, job.storage_options)
    record = work.record
    exists = run_exists(storage, record)
    missing = missing_batches(storage, record) if exists else tuple(range(len(work.batches)))
    require_room(storage, job, family, work, missing)

    storage = create_lake(job.lake, job.storage_options).storage
    if not exists:
        create_run(storage, record, once_arrays(family), family.vocabulary)
    record_skipped(storage, record.name, skipped_rows(record.name, survey.skipped))
    computed = sum(len(work.batches[number].examples) for number in missing)
    with BackgroundWriter() as writer:
        tally = _Tally(report, work, writer, done=len(work.items) - computed)
        scratch = Scratch()
        for batch, asked in load_ahead(work, family, missing):
            forward = run_batch(family, work.wanted, asked, job.decoding, work.shared)
            finished = Finished(record, work.wanted, asked, forward, work.sees_suffix)
            if batch.number == missing[0]:
                check_first_batch(family, finished)
            rows = batch_rows(work, family, batch, asked, forward)
            writer.put(partial(_commit, storage, batch.number, finished, rows, scratch, tally))
    return Outcome(
        run=record.name,
        examples=len(work.examples),
        rows=len(work.items),
        computed=computed,
        skipped=len(survey.skipped),
        written=tally.written,
        seconds=tally.seconds,
        waited=writer.waited,
    )


def survey_job(job: Job) -> Survey:
    """The job's examples and what their images are. Raises VlmlakeError for bad rows, and for broken images unless the
    job skips them.
    """
    examples = load_dataset(job.datasets, job.images, job.columns)
    return survey_images(examples, job.skip_bad)


class _Tally:
    """Adds up what was committed and reports it; used by the writer's thread only once that has started."""

    def __init__(self, report: Callable[[Progress], None], work: Work, writer: BackgroundWriter, done: int) -> None:
        self.run, self.total, self.done, self.written = work.record.name, len(work.items), done, 0
        self._report, self._writer, self._began = report, writer, time.monotonic()
        self.add(rows=0, written=0)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def add(self, rows: int, written: int) -> None:
        self.done += rows
        self.written += written
        self._report(Progress(self.run, self.done, self.total, self.written, self.seconds, self._writer.waited))


def _commit(
    storage: Storage,
    number: int,
    finished: Finished,
    rows: list[dict[str, object]],
    scratch: Scratch,
    tally: _Tally,
) -> None:
    written = commit_batch(storage, finished.record, number, batch_arrays(finished, scratch), rows)
    tally.add(len(finished.asked.prompts), written)
