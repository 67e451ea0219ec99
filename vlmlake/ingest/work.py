"""A job made concrete for one model and its data: what is computed, in which batches, under which record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlmlake.ingest.capture import Wanted
from vlmlake.ingest.datasets import Example
from vlmlake.ingest.datasets.image_source import ImageSource
from vlmlake.ingest.datasets.survey import ImageFacts
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

    def budget(self, numbers: Sequence[int] | None = None) -> Budget:
        """What the run takes; given numbers of batches, what those take."""
        batches = self.batches if numbers is None else [self.batches[number] for number in numbers]
        return estimate(self.record, batches, self.lengths, self.sees_suffix)


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
