"""The pass: a model, a dataset and a lake in; committed batches out. Running it again does what is still missing."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from vlmlake.errors import VlmlakeError
from vlmlake.ingest.assemble import batch_arrays
from vlmlake.ingest.attention_rows import IMPLEMENTATION
from vlmlake.ingest.datasets import Example, load_dataset
from vlmlake.ingest.families import Family, ImageInputs, Prompt, load_family
from vlmlake.ingest.generation import Answer, run_batch
from vlmlake.ingest.model_identity import model_identity
from vlmlake.ingest.writer import BackgroundWriter
from vlmlake.store_schema.capture_plan import Batch, plan_batches, plan_extents
from vlmlake.store_schema.commits import commit_batch, create_run, missing_batches
from vlmlake.store_schema.lake import create_lake, refuse_foreign_lake
from vlmlake.store_schema.run_record import RunRecord, fingerprint
from vlmlake.store_schema.schema import FORMAT_VERSION, STORED_DTYPES, layer_names, position_names
from vlmlake.store_schema.storage import Storage

RECORDED_PACKAGES = ("vlmlake", "torch", "transformers", "tokenizers", "numpy", "zarr", "pillow")


@dataclass(frozen=True)
class Job:
    """What to run. model: folder or hub id; dataset: KIND:PATH; dtype: how activations are stored.

    batch_size: examples computed and committed together; answer_tokens: generate at most so many.
    """

    model: str
    dataset: str
    lake: str
    images: Path | None = None
    dtype: str = "float16"
    batch_size: int = 32
    answer_tokens: int = 16
    device: str = "cpu"
    storage_options: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.dtype not in STORED_DTYPES:
            raise VlmlakeError(f"dtype is {self.dtype}, expected one of {', '.join(STORED_DTYPES)}")
        for name in ("batch_size", "answer_tokens"):
            if getattr(self, name) < 1:
                raise VlmlakeError(f"{name.replace('_', ' ')} is {getattr(self, name)}, expected at least 1")


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
    prompts = [family.prompt(example.question, grids[example.image_path]) for example in examples]
    batches = plan_batches([digests[example.image_path] for example in examples], job.batch_size)
    record = _record(job, family, examples, digests, prompts, batches)

    storage = create_lake(job.lake, job.storage_options).storage
    create_run(storage, record, _once(family), family.vocabulary)
    missing = missing_batches(storage, record)
    computed = sum(len(batches[number].examples) for number in missing)
    tally = _Tally(report, record.name, total=len(examples), done=len(examples) - computed)
    tally.add(examples=0, written=0)
    with BackgroundWriter() as writer:
        for number in missing:
            batch = batches[number]
            arrays, rows = _compute(family, record, batch, examples, prompts, digests, job.answer_tokens)
            writer.put(_commit_job(storage, record, batch, arrays, rows, tally))
    return Outcome(record.name, len(examples), computed, tally.written)


class _Tally:
    """Adds up what was committed and reports it; used by the writer's thread only once that has started."""

    def __init__(self, report: Callable[[Progress], None], run: str, total: int, done: int) -> None:
        self.report, self.run, self.total, self.done, self.written = report, run, total, done, 0

    def add(self, examples: int, written: int) -> None:
        self.done += examples
        self.written += written
        self.report(Progress(self.run, self.done, self.total, self.written))


def _commit_job(
    storage: Storage,
    record: RunRecord,
    batch: Batch,
    arrays: Mapping[str, np.ndarray],
    rows: Sequence[Mapping[str, Any]],
    tally: _Tally,
) -> Callable[[], None]:
    def commit() -> None:
        tally.add(len(batch.examples), commit_batch(storage, record, batch.number, arrays, rows))

    return commit


def _compute(
    family: Family,
    record: RunRecord,
    batch: Batch,
    examples: Sequence[Example],
    prompts: Sequence[Prompt],
    digests: Mapping[Path, str],
    answer_tokens: int,
) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    asked = [prompts[index] for index in batch.examples]
    images = [_image_inputs(family, examples[prefix[0]].image_path) for prefix in batch.prefixes]
    run = run_batch(family, images, asked, batch.prefix_of, answer_tokens)
    arrays = batch_arrays(record.extents, run, images, asked, batch.prefix_of)
    extents = record.extents
    rows = []
    for place, index in enumerate(batch.examples):
        example, prompt = examples[index], prompts[index]
        rows.append(
            {
                "run": record.name,
                "example": example.id,
                "dataset": example.dataset,
                "split": example.split,
                "image": example.image,
                "image_sha256": digests[example.image_path],
                "question_id": example.question_id,
                "question": example.question,
                "gold": example.gold,
                "prompt": family.template.format(image="<image>", question=example.question),
                "prefix_tokens": prompt.split,
                "suffix_tokens": prompt.suffix_length,
                "batch": batch.number,
                "row": batch.number * extents.example_rows + place,
                "prefix": batch.number * extents.prefix_rows + batch.prefix_of[place],
                **_answer_row(family, run.answers[place]),
            }
        )
    return arrays, rows


def _answer_row(family: Family, answer: Answer) -> dict[str, Any]:
    return {
        "answer": family.tokenizer.decode(answer.ids, skip_special_tokens=True).strip(),
        "answer_tokens": answer.captured,
        "token_ids": list(answer.ids),
        "log_probs": list(answer.log_probs),
        "finish": answer.finish,
        "first_log_prob": answer.log_probs[0],
        "first_gap": answer.first_gap,
        "first_entropy": answer.first_entropy,
    }


def _once(family: Family) -> dict[str, np.ndarray]:
    return {
        "unembedding": family.unembedding.weight.detach().float().cpu().numpy(),
        "final_norm": family.final_norm.weight.detach().float().cpu().numpy(),
    }


def _record(
    job: Job,
    family: Family,
    examples: Sequence[Example],
    digests: Mapping[Path, str],
    prompts: Sequence[Prompt],
    batches: Sequence[Batch],
) -> RunRecord:
    rows = [[*example.key, example.question_id, example.gold, digests[example.image_path]] for example in examples]
    identity = {
        "format_version": FORMAT_VERSION,
        "model": model_identity(job.model, family.model),
        "dataset": {"spec": job.dataset.partition(":")[0], "rows": len(rows), "sha256": fingerprint(rows)},
        "prompt_template": {"id": family.template_id, "text": family.template},
        "plan": {"name": "suffix", "batch_size": job.batch_size, "padding_side": "left"},
        "generation": {"greedy": True, "answer_tokens": job.answer_tokens},
        "stored_dtype": job.dtype,
        "attention": IMPLEMENTATION,
    }
    return RunRecord(
        model=Path(job.model).name,
        identity=identity,
        examples=len(examples),
        extents=plan_extents(
            batches,
            family.decoder,
            suffix_lengths=[prompt.suffix_length for prompt in prompts],
            prefix_lengths=[prompt.split for prompt in prompts],
            answer_tokens=job.answer_tokens,
        ),
        stored_dtype=job.dtype,
        layers=layer_names(family.decoder.blocks),
        positions=position_names(job.answer_tokens),
        final_norm=family.final_norm_record,
        versions={
            "python": platform.python_version(),
            "device": str(family.device),
            "dataset": job.dataset,
            "model": job.model,
            **{name: version(name) for name in RECORDED_PACKAGES},
        },
    )


def _image_inputs(family: Family, path: Path) -> ImageInputs:
    try:
        with Image.open(path) as image:
            return family.image_inputs(image)
    except (UnidentifiedImageError, OSError) as error:
        raise VlmlakeError(f"cannot read the image {path}: {error}") from error


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
