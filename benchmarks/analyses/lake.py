"""The study's lake, written batch by batch as `vlmlake extract` does."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from analyses.study import SYSTEM_TOKENS, YES_NO, Study
from vlmlake.store_schema.commits import commit_batch, create_run
from vlmlake.store_schema.finish import finish
from vlmlake.store_schema.lake import create_lake
from vlmlake.store_schema.run_record import RunRecord
from vlmlake.store_schema.schema import (
    ALWAYS,
    ANSWER,
    CUE,
    IMAGE,
    PROMPT_LAST,
    QUESTION,
    SYSTEM,
    Extents,
    layer_names,
)

MODEL = "made-up"
SPLITS = ("random", "popular", "adversarial")
CUE_TOKENS = 2
IMAGE_TOKEN, WORD = 10, 20
"""Token ids of every patch and of the first of the other words."""


def write_lake(url: str, study: Study) -> int:
    """A finished run of readout states and readout attention, at prompt_last; returns its bytes."""
    record, storage = _record(study), create_lake(url).storage
    once = {"unembedding": study.unembedding, "final_norm": study.final_norm}
    create_run(storage, record, once, _vocabulary(study))
    for number, part in enumerate(study.batches()):
        commit_batch(storage, record, number, _arrays(study, part), list(_rows(study, record, number, part)))
    finish(storage, record)
    return sum(path.stat().st_size for path in Path(url).rglob("*") if path.is_file())


def _record(study: Study) -> RunRecord:
    shape = study.shape
    extents = Extents(
        batches=-(-shape.images // shape.batch),
        example_rows=shape.batch * shape.questions,
        prefix_rows=shape.batch,
        layers=shape.layers,
        heads=shape.heads,
        tokens=shape.tokens,
        prefix_tokens=shape.prefix_tokens,
        positions=1,
        hidden=shape.hidden,
        vocab=shape.vocabulary,
    )
    return RunRecord(
        model=MODEL,
        identity={"shape": repr(shape), "model": {"type": "llava"}},
        examples=shape.examples,
        rows=shape.examples,
        extents=extents,
        stored_dtype="float16",
        arrays=("readout_states", "readout_attention", *ALWAYS),
        layers=layer_names(shape.blocks),
        positions=(PROMPT_LAST,),
        final_norm={"kind": "rms", "epsilon": 1e-5},
        versions={},
    )


def _vocabulary(study: Study) -> list[str]:
    return [*YES_NO, *(f"word{number}" for number in range(len(YES_NO), study.shape.vocabulary))]


def _arrays(study: Study, part: slice) -> dict[str, np.ndarray]:
    shape, rows = study.shape, part.stop - part.start
    images = rows // shape.questions
    weights = np.full((rows, shape.layers, shape.heads, 1, shape.prefix_tokens), np.nan, np.float16)
    weights[:, 1:, :, 0] = study.attention(part)
    words = np.random.default_rng(part.start).integers(WORD, shape.vocabulary, size=(rows, shape.tokens))
    words[:, -1] = np.where(study.answer[part], 0, 1)
    before = [*range(WORD, WORD + SYSTEM_TOKENS), *[IMAGE_TOKEN] * shape.grid**2]
    roles = [SYSTEM] * SYSTEM_TOKENS + [IMAGE] * shape.grid**2
    after = [SYSTEM, *[QUESTION] * (shape.tokens - CUE_TOKENS - 2), *[CUE] * CUE_TOKENS, ANSWER]
    cells = np.indices((shape.grid, shape.grid)).reshape(2, -1)
    row, column = (np.concatenate([np.full(SYSTEM_TOKENS, -1), axis]) for axis in cells)
    return {
        "readout_states": study.states(part)[:, :, None],
        "readout_attention": weights,
        "token_id": words.astype(np.int32),
        "token_role": np.tile(np.array(after, np.int8), (rows, 1)),
        "prefix_token_id": np.tile(np.array(before, np.int32), (images, 1)),
        "prefix_token_role": np.tile(np.array(roles, np.int8), (images, 1)),
        "image_row": np.tile(row.astype(np.int16), (images, 1)),
        "image_column": np.tile(column.astype(np.int16), (images, 1)),
    }


def _rows(study: Study, record: RunRecord, number: int, part: slice) -> Iterator[dict[str, Any]]:
    shape = study.shape
    for row in range(part.start, part.stop):
        image, question = divmod(row, shape.questions)
        split = SPLITS[question * len(SPLITS) // shape.questions]
        gap = float(study.gap[row])
        log_prob = -float(np.log1p(np.exp(-gap)))
        yield {
            "run": record.name,
            "example": f"made_up/{split}/{row}",
            "dataset": "made_up",
            "split": split,
            "image": f"{image}.jpg",
            "image_sha256": hashlib.sha256(str(image).encode()).hexdigest(),
            "question_id": str(row),
            "question": f"Is there a thing of kind {question} in the image?",
            "gold": "yes" if study.gold[row] else "no",
            "prefix_tokens": shape.prefix_tokens,
            "suffix_tokens": shape.tokens - 1,
            "batch": number,
            "row": row,
            "prefix": image,
            "answer": YES_NO[0 if study.answer[row] else 1],
            "answer_tokens": 1,
            "token_ids": [0 if study.answer[row] else 1],
            "log_probs": [log_prob],
            "finish": "stop",
            "first_log_prob": log_prob,
            "first_gap": gap,
            "first_entropy": -log_prob * np.exp(log_prob) + (gap - log_prob) * (1 - np.exp(log_prob)),
        }
