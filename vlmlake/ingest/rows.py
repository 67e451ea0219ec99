"""One batch's rows of the tables: what was asked, and what the model said."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from vlmlake.ingest.answers import Answer
from vlmlake.ingest.datasets import Example
from vlmlake.ingest.datasets.survey import Skipped
from vlmlake.ingest.families import Family
from vlmlake.ingest.generation import Pass, Questions
from vlmlake.ingest.items import Item
from vlmlake.ingest.work import Work
from vlmlake.store_schema.batches import Batch


def batch_rows(work: Work, family: Family, batch: Batch, asked: Questions, forward: Pass) -> list[dict[str, Any]]:
    """Rows of tables.BATCH: for every item of the batch, in the order of its row, each example that asks it."""
    extents = work.record.extents
    rows = []
    for place, index in enumerate(batch.examples):
        item, prompt, answer = work.items[index], asked.prompts[place], forward.answers[place]
        common = {
            "run": work.record.name,
            "batch": batch.number,
            "row": batch.number * extents.example_rows + place,
            "prefix": batch.number * extents.prefix_rows + batch.prefix_of[place],
            "image_sha256": item.image_sha256,
            "prompt": prompt.text,
            "prefix_tokens": prompt.split,
            "suffix_tokens": prompt.suffix_length,
            **_answer(family, answer),
            "first_log_prob": answer.log_probs[0],
            "first_gap": answer.first_gap,
            "first_entropy": answer.first_entropy,
            "samples": [
                {"sample": number, **_answer(family, sample)} for number, sample in enumerate(forward.samples[place])
            ],
        }
        rows += [{**common, **_example(example)} for example in _askers(work, item)]
    return rows


def skipped_rows(run: str, skipped: Sequence[Skipped]) -> list[dict[str, Any]]:
    """Rows of tables.SKIPPED."""
    return [{"run": run, "reason": left_out.reason, **_example(left_out.example)} for left_out in skipped]


def _askers(work: Work, item: Item) -> Iterable[Example]:
    return (work.examples[number] for number in item.examples)


def _example(example: Example) -> dict[str, Any]:
    return {
        "example": example.id,
        "dataset": example.dataset,
        "split": example.split,
        "image": example.image,
        "question_id": example.question_id,
        "question": example.question,
        "gold": example.gold,
    }


def _answer(family: Family, answer: Answer) -> dict[str, Any]:
    return {
        "answer": family.tokenizer.decode(answer.ids, skip_special_tokens=True),
        "answer_tokens": answer.captured,
        "token_ids": list(answer.ids),
        "log_probs": list(answer.log_probs),
        "finish": answer.finish,
    }
