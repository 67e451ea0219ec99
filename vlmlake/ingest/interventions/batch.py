"""One batch of questions through the model, under the conditions of each group of the plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from vlmlake.ingest.datasets import open_image
from vlmlake.ingest.generation import Questions
from vlmlake.ingest.interventions.conditions import MASK, PATCH, PROMPT_LAST, Condition
from vlmlake.ingest.interventions.decode import answer
from vlmlake.ingest.interventions.edits import Edit
from vlmlake.ingest.interventions.full import rerun
from vlmlake.ingest.interventions.intervention import Intervention
from vlmlake.ingest.interventions.masked import masked_questions
from vlmlake.ingest.interventions.patching import donated
from vlmlake.ingest.interventions.routes import FULL, Group
from vlmlake.ingest.interventions.suffix import Positions, start
from vlmlake.ingest.work import Work
from vlmlake.store_schema.batches import Batch

MEMORY = {"cpu": 2**30, "cuda": 2**34}
"""Bytes that a stack of conditions may take, about, by the type of the device."""
WORKING = 8
"""How often its width a token of the residual stream takes while a block runs, about."""

Masks = Mapping[tuple[str, int], Mapping[str, tuple[int, ...]]]
"""Patches by set and member, then by example."""

Said = tuple[Condition, torch.Tensor, Sequence[tuple[int, ...]]]
"""A condition, its logits, [questions, vocab], float32, and the tokens of each answer."""


@dataclass(frozen=True)
class Asking:
    """One batch, and what its questions are about."""

    intervention: Intervention
    work: Work
    batch: Batch
    questions: Questions
    masks: Masks

    def answered(self, group: Group, conditions: Sequence[Condition]) -> Iterator[Said]:
        """What the model says under these conditions of a group."""
        if not conditions:
            return
        limit, family = self.intervention.answer_tokens, self.intervention.family
        positions = _positions(conditions)
        if group.route == FULL:
            images: list[Any] = []
            for condition in conditions:
                questions = self._masked(condition, images) if condition.kind == MASK else self.questions
                found = rerun(family, questions, self._edits(condition), positions, limit, self.work.shared)
                yield condition, found.logits, found.ids
            return
        started = start(family, self.questions, group.block, self.work.shared and group.block > 0, limit - 1)
        at_once = self._at_once(group.block)
        for first in range(0, len(conditions), at_once):
            stack = conditions[first : first + at_once]
            said = answer(started, [self._edits(condition) for condition in stack], positions, limit)
            yield from zip(stack, said.logits, said.ids, strict=True)

    def _edits(self, condition: Condition) -> tuple[Edit, ...]:
        if condition.kind != PATCH:
            return condition.edits
        return (
            donated(self.intervention.run, condition, [self._asker(condition, one) for one in self.batch.examples]),
        )

    def _asker(self, condition: Condition, item: int) -> str:
        """Of the examples that ask a question one that the condition concerns, or any."""
        ids = [self.work.examples[one].id for one in self.work.items[item].examples]
        return next(filter(condition.concerns, ids), ids[0])

    def _masked(self, condition: Condition, images: list[Any]) -> Questions:
        """images: of the questions, opened for the first condition that wants them."""
        items = [self.work.items[item] for item in self.batch.examples]
        if not images:
            opened = {item.image_sha256: open_image(item.source, item.image_sha256) for item in items}
            images += [opened[item.image_sha256] for item in items]
        masks = self.masks[condition.set, condition.member]
        covered = [masks[self.work.examples[item.examples[0]].id] for item in items]
        return masked_questions(
            self.intervention.family, items, images, self.questions.prompts, covered, self.work.shared
        )

    def _at_once(self, block: int) -> int:
        """Conditions in one stack, by what their rows take."""
        family, asked = self.intervention.family, self.questions
        prefix = max(prompt.split for prompt in asked.prompts)
        suffix = max(prompt.suffix_length for prompt in asked.prompts)
        tokens = (prefix * len(asked.images) + suffix * len(asked.prompts)) / len(asked.prompts)
        cached = 2 * (len(family.blocks) - block) * (prefix + suffix) * family.heads_width
        size = next(family.model.parameters()).element_size()
        row = size * (cached + WORKING * tokens * family.decoder.hidden) + 8 * family.decoder.vocab
        memory = MEMORY.get(family.device.type, MEMORY["cpu"])
        return max(1, int(memory // (row * len(asked.prompts))))


def _positions(conditions: Sequence[Condition]) -> Positions:
    """Those of an intervention's conditions, which have them in common."""
    return "prompt_last" if any(one.positions == PROMPT_LAST for one in conditions) else "all"
