"""The pass: a model, a dataset and a lake in; committed batches out. Running it again does what is still missing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from vlmlake.errors import VlmlakeError
from vlmlake.ingest.assemble import batch_arrays
from vlmlake.ingest.datasets import load_dataset
from vlmlake.ingest.families import Family, ImageInputs, load_family
from vlmlake.ingest.first_batch import check_first_batch
from vlmlake.ingest.generation import run_batch
from vlmlake.ingest.job import Job
from vlmlake.ingest.record import once_arrays, run_record
from vlmlake.ingest.rows import Question, batch_rows
from vlmlake.ingest.writer import BackgroundWriter
from vlmlake.store_schema.arrays import Arrays, Targets, open_arrays
from vlmlake.store_schema.capture_plan import Batch, plan_batches
from vlmlake.store_schema.commits import commit_batch, create_run, missing_batches, run_exists
from vlmlake.store_schema.lake import create_lake, refuse_foreign_lake
from vlmlake.store_schema.run_record import RunRecord
from vlmlake.store_schema.storage import Storage


@dataclass(frozen=True)
class Progress:
    """How far a pass is: committed examples of all, and the bytes that this pass wrote."""

    run: str
    done: int
    total: int
    written: int


@dataclass(frozen=True)
class Outcome:
    """What a pass ended with. computed: examples that were not there before."""

    run: str
    total: int
    computed: int
    written: int


def extract(job: Job, report: Callable[[Progress], None] = lambda progress: None) -> Outcome:
    """Run what the lake does not hold yet and commit it batch by batch.

    report is called once when the run is known and after every commit, from a background thread.

    Raises VlmlakeError for bad input before anything is computed; batches committed before an error stay.
    """
    refuse_foreign_lake(job.lake, job.storage_options)
    examples = load_dataset(job.dataset, job.images)
    family = load_family(job.model, job.device)
    digests = {path: _digest(path) for path in dict.fromkeys(example.image_path for example in examples)}
    grids = {path: _image_inputs(family, path).grid for path in digests}
    questions = [
        Question(example, digests[example.image_path], family.prompt(example.question, grids[example.image_path]))
        for example in examples
    ]
    _require_room(family, questions, job.answer_tokens)
    batches = plan_batches([question.image_sha256 for question in questions], job.batch_size)
    record = run_record(job, family, questions, batches)

    storage = create_lake(job.lake, job.storage_options).storage
    if not run_exists(storage, record):
        create_run(storage, record, once_arrays(family), family.vocabulary)
    targets = open_arrays(storage, record.name, read_only=False)
    missing = missing_batches(storage, record)
    computed = sum(len(batches[number].examples) for number in missing)
    tally = _Tally(report, record.name, total=len(examples), done=len(examples) - computed)
    tally.add(examples=0, written=0)
    with BackgroundWriter() as writer:
        for number in missing:
            batch = batches[number]
            asked = [questions[index] for index in batch.examples]
            prompts = [question.prompt for question in asked]
            images = [_image_inputs(family, questions[prefix[0]].example.image_path) for prefix in batch.prefixes]
            forward = run_batch(family, images, prompts, batch.prefix_of, job.answer_tokens)
            if number == missing[0]:
                check_first_batch(family, forward, images, prompts, batch.prefix_of)
            arrays = batch_arrays(record.extents, forward, images, prompts, batch.prefix_of)
            rows = batch_rows(record, family, batch, asked, forward.answers)
            writer.put(partial(_commit, storage, record, targets, batch, arrays, rows, tally))
    return Outcome(record.name, len(examples), computed, tally.written)


class _Tally:
    """Adds up what was committed and reports it; used by the writer's thread only once that has started."""

    def __init__(self, report: Callable[[Progress], None], run: str, total: int, done: int) -> None:
        self.report, self.run, self.total, self.done, self.written = report, run, total, done, 0

    def add(self, examples: int, written: int) -> None:
        self.done += examples
        self.written += written
        self.report(Progress(self.run, self.done, self.total, self.written))


def _commit(
    storage: Storage,
    record: RunRecord,
    targets: Targets,
    batch: Batch,
    arrays: Arrays,
    rows: Sequence[Mapping[str, Any]],
    tally: _Tally,
) -> None:
    tally.add(len(batch.examples), commit_batch(storage, record, targets, batch.number, arrays, rows))


def _require_room(family: Family, questions: Sequence[Question], answer_tokens: int) -> None:
    longest = max(questions, key=lambda question: len(question.prompt.ids))
    needed = len(longest.prompt.ids) + answer_tokens
    if needed > family.longest_sequence:
        raise VlmlakeError(
            f"example {longest.example.id} needs {needed} tokens with its answer, the model's positions reach "
            f"{family.longest_sequence}: shorten the question or --answer-tokens"
        )


def _image_inputs(family: Family, path: Path) -> ImageInputs:
    try:
        with Image.open(path) as image:
            return family.image_inputs(image)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError) as error:
        raise VlmlakeError(f"cannot read the image {path}: {error}") from error


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
