"""What a pass would write, from the tokenizer and the shapes in config.json alone: no weights, no forward."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vlmlake.errors import VlmlakeError
from vlmlake.ingest.datasets import Example, ImageFacts, ImageSource, load_dataset
from vlmlake.ingest.families import Family, load_family
from vlmlake.ingest.job import Job
from vlmlake.ingest.work import Work, plan_work, survey_job
from vlmlake.store_schema.budget import Budget
from vlmlake.store_schema.storage import Storage

UNOPENED = "memory://images-that-are-not-opened"
ANY_SIZE = (640, 480)


@dataclass(frozen=True)
class Forecast:
    """opened: whether the images were looked at; else they were told apart by name. prompt_tokens: what the prompts'
    forwards go through, with prefixes shared as planned; unshared_tokens: without. free: bytes free on a local disk.
    """

    work: Work
    budget: Budget
    opened: bool
    prompt_tokens: int
    unshared_tokens: int
    free: int | None


def forecast(job: Job, image_size: tuple[int, int] | None = None) -> Forecast:
    """Plan a job. image_size: width and height to take for every image, which are then not opened.

    Images are opened only where the number of their tokens depends on their size and none is given.

    Raises VlmlakeError as `extract` does for bad input, and where such an image is not there.
    """
    family = load_family(job.model, weights=False)
    opened = family.grid_depends_on_size and image_size is None
    examples, facts = _looked_at(job) if opened else _by_name(job, image_size or ANY_SIZE)
    work = plan_work(job, family, examples, facts, {"name": _short_name(job, family)})
    lengths = work.lengths
    budget = work.budget()
    prefixes = sum(lengths[prefix[0]].prefix for batch in work.batches for prefix in batch.prefixes)
    return Forecast(
        work=work,
        budget=budget,
        opened=opened,
        prompt_tokens=prefixes + sum(row.suffix for row in lengths),
        unshared_tokens=sum((item.lengths.prefix + item.lengths.suffix) * len(item.examples) for item in work.items),
        free=Storage.at(job.lake, job.storage_options).free(),
    )


def _looked_at(job: Job) -> tuple[tuple[Example, ...], Mapping[ImageSource, ImageFacts]]:
    try:
        survey = survey_job(job)
    except VlmlakeError as error:
        raise VlmlakeError(
            f"{error}. This model makes as many tokens of an image as its size asks for: --image-size 640x480 plans "
            "without the images"
        ) from error
    return survey.examples, survey.facts


def _by_name(job: Job, size: tuple[int, int]) -> tuple[tuple[Example, ...], Mapping[ImageSource, ImageFacts]]:
    examples = tuple(load_dataset(job.datasets, job.images or UNOPENED, job.columns, job.storage_options))
    return examples, {example.source: ImageFacts(example.source.name, *size) for example in examples}


def _short_name(job: Job, family: Family) -> str:
    return job.model.name.rstrip("/").rpartition("/")[2] or family.model_type
