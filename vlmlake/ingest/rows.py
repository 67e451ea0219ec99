"""One batch's rows of the tables: what was asked, and what the model said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vlmlake.ingest.datasets import Example
from vlmlake.ingest.families import Family, Prompt
from vlmlake.ingest.generation import Answer
from vlmlake.store_schema.capture_plan import Batch
from vlmlake.store_schema.run_record import RunRecord


@dataclass(frozen=True)
class Question:
    """An example made ready for one model: its prompt, and the SHA-256 of its image's file."""

    example: Example
    image_sha256: str
    prompt: Prompt


def batch_rows(
    record: RunRecord, family: Family, batch: Batch, asked: Sequence[Question], answers: Sequence[Answer]
) -> list[dict[str, Any]]:
    """Rows of tables.BATCH, one per example of the batch, in the order of their rows in the arrays."""
    return [
        {
            "run": record.name,
            "batch": batch.number,
            "row": batch.number * record.extents.example_rows + place,
            "prefix": batch.number * record.extents.prefix_rows + batch.prefix_of[place],
            **_example_columns(question),
            **_answer_columns(family, answer),
        }
        for place, (question, answer) in enumerate(zip(asked, answers, strict=True))
    ]


def _example_columns(question: Question) -> dict[str, Any]:
    example = question.example
    return {
        "example": example.id,
        "dataset": example.dataset,
        "split": example.split,
        "image": example.image,
        "image_sha256": question.image_sha256,
        "question_id": example.question_id,
        "question": example.question,
        "gold": example.gold,
        "prompt": question.prompt.text,
        "prefix_tokens": question.prompt.split,
        "suffix_tokens": question.prompt.suffix_length,
    }


def _answer_columns(family: Family, answer: Answer) -> dict[str, Any]:
    return {
        "answer": family.tokenizer.decode(answer.ids, skip_special_tokens=True),
        "answer_tokens": answer.captured,
        "token_ids": list(answer.ids),
        "log_probs": list(answer.log_probs),
        "finish": answer.finish,
        "first_log_prob": answer.log_probs[0],
        "first_gap": answer.first_gap,
        "first_entropy": answer.first_entropy,
    }
