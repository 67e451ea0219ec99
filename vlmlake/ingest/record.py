"""The record of a run to be: everything that decides its content, how its arrays are laid out, and what wrote it."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import version

import numpy as np

from vlmlake.ingest.attention_rows import IMPLEMENTATION
from vlmlake.ingest.families import Family
from vlmlake.ingest.job import Job
from vlmlake.ingest.model_identity import model_identity
from vlmlake.ingest.rows import Question
from vlmlake.store_schema.capture_plan import Batch, plan_extents
from vlmlake.store_schema.run_record import RunRecord, fingerprint
from vlmlake.store_schema.schema import FORMAT_VERSION, layer_names, position_names

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
RECORDED_PACKAGES = ("vlmlake", "torch", "transformers", "tokenizers", "numpy", "zarr", "pillow")


def run_record(job: Job, family: Family, questions: Sequence[Question], batches: Sequence[Batch]) -> RunRecord:
    """The same model, data, prompt, plan and generation give the same name, wherever they lie."""
    model = model_identity(job.model, family.model)
    identity = {
        "format_version": FORMAT_VERSION,
        "model": model,
        "dataset": _dataset_identity(job, questions),
        "image_processor": type(family.image_processor).__name__,
        "prompt_template": {"id": family.template_id, "text": family.template},
        "plan": {"name": "suffix", "batch_size": job.batch_size, "padding_side": "left"},
        "generation": {
            "greedy": True,
            "answer_tokens": job.answer_tokens,
            "generation_config_not_applied": _not_applied(family),
        },
        "stored_dtype": job.dtype,
        "attention": IMPLEMENTATION,
    }
    return RunRecord(
        model=model["name"],
        identity=identity,
        examples=len(questions),
        extents=plan_extents(
            batches,
            family.decoder,
            suffix_lengths=[question.prompt.suffix_length for question in questions],
            prefix_lengths=[question.prompt.split for question in questions],
            answer_tokens=job.answer_tokens,
        ),
        stored_dtype=job.dtype,
        layers=layer_names(family.decoder.blocks),
        positions=position_names(job.answer_tokens),
        final_norm=family.final_norm_record,
        versions={
            "python": platform.python_version(),
            "device": str(family.device),
            "model": job.model,
            "dataset": job.dataset,
            **{name: version(name) for name in RECORDED_PACKAGES},
        },
    )


def once_arrays(family: Family) -> dict[str, np.ndarray]:
    """What the whole run shares: `unembedding` [vocab, hidden] and `final_norm` [hidden], float32."""
    return {
        "unembedding": family.unembedding.weight.detach().float().cpu().numpy(),
        "final_norm": family.final_norm.weight.detach().float().cpu().numpy(),
    }


def _not_applied(family: Family) -> dict[str, object]:
    """Settings of the checkpoint that would change what `generate` says; our answers are the plain argmax."""
    settings = family.model.generation_config.to_dict()
    return {name: settings[name] for name in CHANGING_GREEDY if settings.get(name) not in (None, 1, 1.0, 0, [], {})}


def _dataset_identity(job: Job, questions: Sequence[Question]) -> dict[str, object]:
    rows = [
        [*question.example.key, question.example.question_id, question.example.gold, question.image_sha256]
        for question in questions
    ]
    return {"kind": job.dataset.partition(":")[0], "rows": len(rows), "sha256": fingerprint(rows)}
