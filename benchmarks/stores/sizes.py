"""C: what sharing an image's prefix saves, by the budget of LLaVA-1.5-7B on POPE."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from stores.table import Row
from vlmlake.store_schema.batches import Decoder, Lengths, plan_batches, plan_extents
from vlmlake.store_schema.budget import Budget, estimate
from vlmlake.store_schema.run_record import RunRecord
from vlmlake.store_schema.schema import ALWAYS, layer_names, position_names

POPE = Path(__file__).parents[2] / "tests/data/coco_pope_random.json"
LLAVA = Decoder(blocks=32, heads=32, hidden=4096, vocab=32_064)
BEFORE, AFTER = 4 + 576, 8
"""Tokens of `<s>USER: ` with the image; and, in a suffix, those that are no word of the question: the line break, the
question mark, `ASSISTANT:`."""
ANSWER = 16
BATCH = 32
LEAST = 5.0
"""The target."""

Question = tuple[str, str]
"""Image and text."""


def rows() -> tuple[list[Row], list[str]]:
    """The table's rows, and what must be known about them."""
    random = _pope()
    splits = [question for split in range(3) for question in _split(random, split)]
    apart = [(image, f"{text} ({number})") for number, (image, text) in enumerate(random * 3)]
    found = []
    for part, what, asked in (
        ("C1", "9,000 different questions, 18 an image", apart),
        ("C2", "three splits, the positive questions in each", splits),
        ("C3", "POPE's random split alone, 6 an image", random),
    ):
        shared, alone = _states(asked, True), _states(asked, False)
        judged = part != "C3"
        count = f"{len(asked):,} questions, {len(set(asked)):,} different"
        found.append(Row(part, f"{what}: shared prefixes", f"{shared / 1e9:,.0f} GB", f"{shared / 1e6:,.0f}"))
        found.append(
            Row(
                part,
                f"{count}: a prefix each",
                f"{alone / 1e9:,.0f} GB",
                f"{alone / 1e6:,.0f}",
                "",
                f"{alone / shared:.2f} x",
                f">= {LEAST:g} x" if judged else "",
                alone / shared >= LEAST if judged else None,
            )
        )
    return found, [
        "C: hidden_states and prefix_states by the budget, float16, before compression: 33 layers of 4,096, "
        f"prefixes of {BEFORE} tokens, answers of {ANSWER}, batches of {BATCH}.",
        "C: images and questions are those of POPE's random split; the others' negative questions (C2) stand in for "
        "those of the popular and adversarial splits.",
    ]


def _pope() -> list[Question]:
    lines = POPE.read_text().splitlines()
    return [(row["image"], row["text"]) for row in map(json.loads, lines)]


def _split(random: Sequence[Question], number: int) -> list[Question]:
    """Every second question is about what is there, the same in all splits; the others are about what is not."""
    if number == 0:
        return list(random)
    return [(image, text if index % 2 == 0 else f"{text} ({number})") for index, (image, text) in enumerate(random)]


def _states(asked: Sequence[Question], shared: bool) -> int:
    budget = _budget(sorted(set(asked)), shared)
    return sum(array.bytes for array in budget.arrays if array.name in ("hidden_states", "prefix_states"))


def _budget(asked: Sequence[Question], shared: bool) -> Budget:
    lengths = [Lengths(BEFORE, len(text.split("(")[0].split()) + AFTER) for _, text in asked]
    keys = [image if shared else str(number) for number, (image, _) in enumerate(asked)]
    batches = plan_batches(keys, BATCH, lengths)
    layers, positions = layer_names(LLAVA.blocks), position_names(1)
    record = RunRecord(
        model="llava",
        identity={},
        examples=len(asked),
        rows=len(asked),
        extents=plan_extents(batches, lengths, LLAVA, len(layers), len(positions), ANSWER),
        stored_dtype="float16",
        arrays=("hidden_states", "prefix_states", *ALWAYS),
        layers=layers,
        positions=positions,
        final_norm={},
        versions={},
    )
    return estimate(record, batches, lengths, sees_suffix=False)
