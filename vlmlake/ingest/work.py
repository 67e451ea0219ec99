"""A job made concrete for one model and its data: what is computed, in which batches, under which record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vlmlake.ingest.capture import Wanted
from vlmlake.ingest.datasets import Example, load_dataset
from vlmlake.ingest.datasets.image_source import ImageSource
from vlmlake.ingest.datasets.survey import ImageFacts, Survey, survey_images
from vlmlake.ingest.families import Family
from vlmlake.ingest.items import Item, distinct_items
from vlmlake.ingest.job import Job
from vlmlake.ingest.record import run_record
from vlmlake.store_schema.batches import Batch, Lengths, plan_batches, plan_extents
from vlmlake.store_schema.budget import Budget, estimate
from vlmlake.store_schema.run_record import RunRecord


@dataclass(frozen=True)
class Work:
    """examples: all that the run holds. items: distinct pairs of them, the rows of the run. shared: whether the items
    of an image share its prefix.
    """

    examples: Sequence[Example]
    items: Sequence[Item]
    batches: Sequence[Batch]
    record: RunRecord
    wanted: Wanted
    shared: bool
    sees_suffix: bool

    @property
    def lengths(self) -> list[Lengths]:
        return [item.lengths for item in self.items]

    def budget(self, numbers: Sequence[int] | None = None, begun: bool = False) -> Budget:
        """What the run takes; given numbers of batches, what those take. begun: without what the run shares, which is
        there.
        """
        batches = self.batches if numbers is None else [self.batches[number] for number in numbers]
        arrays = tuple(spec.name for spec in self.record.specs if not (begun and spec.once))
        return estimate(replace(self.record, arrays=arrays), batches, self.lengths, self.sees_suffix)


def survey_job(job: Job) -> Survey:
    """The job's examples and what their images are. Raises VlmlakeError for bad rows, and for broken images unless the
    job skips them.
    """
    examples = load_dataset(job.datasets, job.images, job.columns, job.storage_options)
    return survey_images(examples, job.skip_bad)


def plan_work(
    job: Job,
    family: Family,
    examples: Sequence[Example],
    facts: Mapping[ImageSource, ImageFacts],
    model: Mapping[str, Any],
) -> Work:
    """Cut a job into batches. model: what identifies it, its `name` among it.

    Raises VlmlakeError if the plan names layers or positions that there are not, or a prompt is too long.
    """
    answer_tokens = job.decoding.answer_tokens
    items = distinct_items(family, examples, facts, answer_tokens)
    shared = job.share_prefix and not family.image_sees_question
    lengths = [item.lengths for item in items]
    keys = [item.image_sha256 if shared else item.key for item in items]
    batches = plan_batches(keys, job.batch_size, lengths)
    layers = job.plan.chosen_layers(len(family.blocks))
    positions = job.plan.chosen_positions(answer_tokens)
    extents = plan_extents(batches, lengths, family.decoder, len(layers), len(positions), answer_tokens)
    record = run_record(job, family, model, examples, facts, len(items), extents, layers, positions)
    wanted = Wanted.of(record, len(family.blocks), answer_tokens)
    return Work(examples, items, batches, record, wanted, shared, family.image_sees_question)
