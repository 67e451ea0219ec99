"""A run's job made again from its record, for some of its examples: the model and the data must be what they were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlmlake.errors import VlmlakeError
from vlmlake.ingest.datasets import Example, load_dataset
from vlmlake.ingest.datasets.survey import survey_images
from vlmlake.ingest.datasets.urls import is_url
from vlmlake.ingest.decoding import Decoding
from vlmlake.ingest.families import Family, load_family
from vlmlake.ingest.job import Job
from vlmlake.ingest.model_identity import model_identity
from vlmlake.ingest.model_source import ModelSource
from vlmlake.ingest.work import Work, plan_work
from vlmlake.store_schema.capture_plan import CHOOSABLE, CapturePlan
from vlmlake.store_schema.run_record import RunRecord
from vlmlake.store_schema.schema import BLANK_ARRAYS

CONTENT = ("type", "dtype", "sha256", "revision")
"""Parts of a model's identity beside its name: a folder may be called otherwise."""

Row = Mapping[str, Any]
"""Of tables.BATCH."""


@dataclass(frozen=True)
class Sources:
    """Where a run's model and data are now. model, datasets: as the run's record says unless given, where that is on
    this machine: what a lake says is not fetched. images, columns: as
    for `extract`. device: where the model runs.
    """

    model: str | None = None
    datasets: tuple[str, ...] = ()
    images: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    device: str = "cpu"
    trust_remote_code: bool = False


def load_same_model(record: RunRecord, sources: Sources) -> Family:
    """The run's model. Raises VlmlakeError if what is there is another, or nothing is."""
    told = record.identity["model"]
    source = ModelSource(
        sources.model or _recorded_model(record),
        revision=told.get("revision"),
        dtype=told["dtype"],
        device=sources.device,
        attention=record.identity["attention"],
        trust_remote_code=sources.trust_remote_code,
    )
    family = load_family(source)
    there = model_identity(source, family.model)
    different = [part for part in CONTENT if there.get(part) != told.get(part)]
    if different:
        raise VlmlakeError(
            f"the model {source.name} is not that of {record.name}: its {' and '.join(different)} "
            f"{'is' if len(different) == 1 else 'are'} {', '.join(str(there.get(part)) for part in different)}, "
            f"recorded {', '.join(str(told.get(part)) for part in different)}; --model says where the other is"
        )
    if family.template != record.identity["prompt_template"]["text"]:
        raise VlmlakeError(
            f"{record.name} was asked with another prompt template, of vlmlake {record.versions.get('vlmlake')}: that "
            "version can replay it"
        )
    return family


def plan_again(record: RunRecord, family: Family, rows: Sequence[Row], sources: Sources, storage_options: Any) -> Work:
    """The work that computes the chosen examples again, as the run did.

    storage_options: for the data that `sources` names, and no others.

    Raises VlmlakeError if the data lack an example, or its question or image is another now.
    """
    storage_options = storage_options if sources.datasets else {}
    job = _job(record, sources, storage_options)
    examples = {example.id: example for example in load_dataset(job.datasets, job.images, job.columns, storage_options)}
    chosen = [_same_question(record, examples, row) for row in rows]
    facts = survey_images(chosen, skip_bad=False).facts
    for example, row in zip(chosen, rows, strict=True):
        if facts[example.source].sha256 != row["image_sha256"]:
            raise VlmlakeError(
                f"the image {example.source.name} of example {example.id} is not that of {record.name}: its SHA-256 is "
                f"{facts[example.source].sha256}, stored {row['image_sha256']}"
            )
    return plan_work(job, family, chosen, facts, record.identity["model"])


def decoding_of(record: RunRecord) -> Decoding:
    """The run's answers, without its draws: these do not change what is compared."""
    return Decoding(answer_tokens=record.identity["generation"]["answer_tokens"])


def _same_question(record: RunRecord, examples: Mapping[str, Example], row: Row) -> Example:
    example = examples.get(row["example"])
    if example is None:
        raise VlmlakeError(
            f"the data have no example {row['example']}, which {record.name} has; --dataset says where they are"
        )
    if example.question != row["question"]:
        raise VlmlakeError(
            f"example {example.id} asks {example.question!r} now, {record.name} was asked {row['question']!r}"
        )
    return example


def _recorded_model(record: RunRecord) -> str:
    """The model's folder. Raises VlmlakeError where none is at the recorded place."""
    told = record.versions.get("model")
    if not (isinstance(told, str) and _is_here(told)):
        raise VlmlakeError(
            f"the model of {record.name} is recorded as {told!r}, which is no path of this machine: --model says where "
            "it is"
        )
    return told


def _recorded_datasets(record: RunRecord) -> tuple[str, ...]:
    """The data sets. Raises VlmlakeError where one is not at the recorded place."""
    told = record.versions.get("dataset")
    specs = told if isinstance(told, list) and told else [told]
    for spec in specs:
        if not (isinstance(spec, str) and _is_local_dataset(spec)):
            raise VlmlakeError(
                f"a data set of {record.name} is recorded as {spec!r}, which is no path of this machine: --dataset "
                "says where it is"
            )
    return tuple(specs)


def _is_local_dataset(spec: str) -> bool:
    kind, _, place = spec.partition(":")
    if kind == "hub" and not _is_here(place):
        place = place.rpartition("@")[0] or place
        place = place.rpartition(":")[0] or place
    return kind == "shapes" or _is_here(place)


def _is_here(place: str) -> bool:
    try:
        return bool(place) and not is_url(place) and Path(place).expanduser().exists()
    except (OSError, ValueError, RuntimeError):
        return False


def _job(record: RunRecord, sources: Sources, storage_options: Any) -> Job:
    plan = record.identity["plan"]
    return Job(
        model=ModelSource(sources.model or _recorded_model(record)),
        datasets=sources.datasets or _recorded_datasets(record),
        lake="",
        images=sources.images,
        columns=sources.columns,
        plan=CapturePlan(
            name=plan["name"],
            arrays=tuple(name for name in record.arrays if name in CHOOSABLE),
            layers=record.layers,
            positions=record.positions,
            dtype=record.stored_dtype,
            blank=any(name in record.arrays for name in BLANK_ARRAYS),
        ),
        decoding=decoding_of(record),
        batch_size=plan["batch_size"],
        share_prefix=plan["shared_prefix"],
        storage_options=storage_options,
    )
