"""The record of a run to be: everything that decides its content, how its arrays are laid out, and what wrote it."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import numpy as np

from vlmlake.errors import without_credentials
from vlmlake.ingest.datasets import Example
from vlmlake.ingest.datasets.image_source import ImageSource
from vlmlake.ingest.datasets.survey import ImageFacts
from vlmlake.ingest.families import Family
from vlmlake.ingest.job import Job
from vlmlake.store_schema.run_record import RunRecord
from vlmlake.store_schema.schema import FORMAT_VERSION, Extents

CHANGING_GREEDY = (
    "repetition_penalty",
    "no_repeat_ngram_size",
    "bad_words_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "sequence_bias",
    "min_length",
    "min_new_tokens",
    "num_beams",
)
UNUSUAL = re.compile(r"[^A-Za-z0-9_.+-]")
"""What no run's name holds (store_schema/index.py)."""

RECORDED_PACKAGES = ("vlmlake", "torch", "transformers", "tokenizers", "numpy", "ml_dtypes", "pillow")


def run_record(
    job: Job,
    family: Family,
    model: Mapping[str, Any],
    examples: Sequence[Example],
    facts: Mapping[ImageSource, ImageFacts],
    rows: int,
    extents: Extents,
    layers: tuple[str, ...],
    positions: tuple[str, ...],
) -> RunRecord:
    """The same model, data, prompt, plan and generation give the same name, wherever they lie."""
    arrays = tuple(spec.name for spec in job.plan.specs)
    identity = {
        "format_version": FORMAT_VERSION,
        "model": {**model, **_shape(family)},
        "dataset": _dataset_identity(job, examples, facts),
        "image_processor": type(family.image_processor).__name__,
        "prompt_template": {"id": family.template_id, "text": family.template},
        "plan": {
            "name": job.plan.name,
            "arrays": arrays,
            "layers": layers,
            "positions": positions,
            "batch_size": job.batch_size,
            "padding_side": "left",
            "shared_prefix": job.share_prefix and not family.image_sees_question,
        },
        "generation": {
            "greedy": True,
            **_sampling(job),
            "generation_config_not_applied": _not_applied(family),
        },
        "stored_dtype": job.plan.dtype,
        "attention": job.model.attention,
    }
    return RunRecord(
        model=UNUSUAL.sub("-", model["name"]).lstrip("-.") or "model",
        identity=json.loads(json.dumps(identity)),
        examples=len(examples),
        rows=rows,
        extents=extents,
        stored_dtype=job.plan.dtype,
        arrays=arrays,
        layers=layers,
        positions=positions,
        final_norm=family.final_norm_record,
        versions={
            "python": platform.python_version(),
            "device": str(family.device),
            "model": without_credentials(job.model.name),
            "dataset": [without_credentials(spec) for spec in job.datasets],
            **{name: version(name) for name in RECORDED_PACKAGES},
        },
    )


def once_arrays(family: Family) -> dict[str, np.ndarray]:
    """What the whole run shares: `unembedding` [vocab, hidden] and `final_norm` [hidden], float32."""
    return {
        "unembedding": family.unembedding.weight.detach().float().cpu().numpy(),
        "final_norm": family.final_norm_scale.cpu().numpy(),
    }


def _shape(family: Family) -> dict[str, int]:
    """What interventions ask of the decoder without loading it."""
    return {"blocks": len(family.blocks), "head_width": family.heads_width // family.decoder.heads}


def _sampling(job: Job) -> dict[str, object]:
    """The settings of the draws count only where there are draws."""
    settings = asdict(job.decoding)
    return settings if job.decoding.samples else {"answer_tokens": job.decoding.answer_tokens, "samples": 0}


def _not_applied(family: Family) -> dict[str, object]:
    """Settings of the checkpoint that would change what `generate` says; our answers are the plain argmax."""
    settings = family.model.generation_config.to_dict()
    return {name: settings[name] for name in CHANGING_GREEDY if settings.get(name) not in (None, 1, 1.0, 0, [], {})}


def _dataset_identity(
    job: Job, examples: Sequence[Example], facts: Mapping[ImageSource, ImageFacts]
) -> dict[str, object]:
    digest = hashlib.sha256()
    for example in examples:
        row = [example.id, example.image, example.question, example.gold, facts[example.source].sha256]
        digest.update(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    kinds = sorted({spec.partition(":")[0] for spec in job.datasets})
    return {"kinds": kinds, "rows": len(examples), "sha256": digest.hexdigest()}
