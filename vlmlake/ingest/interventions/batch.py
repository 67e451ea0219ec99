"""One batch of questions through the model, under the conditions of each group of the plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from vlmlake.errors import VlmlakeError
from vlmlake.ingest.datasets import open_image
from vlmlake.ingest.generation import Questions
from vlmlake.ingest.interventions.edited.decode import answer
from vlmlake.ingest.interventions.edited.edits import Edit
from vlmlake.ingest.interventions.edited.full import rerun
from vlmlake.ingest.interventions.edited.stored_start import start_from_store
from vlmlake.ingest.interventions.edited.suffix import Positions, Started, start
from vlmlake.ingest.interventions.intervention import Intervention
from vlmlake.ingest.interventions.masks.masked import masked_questions
from vlmlake.ingest.interventions.requests.conditions import MASK, PATCH, Condition
from vlmlake.ingest.interventions.requests.patching import donated
from vlmlake.ingest.interventions.routes import FULL, Group
from vlmlake.ingest.work import Work
from vlmlake.store_schema.batches import Batch
from vlmlake.store_schema.schema import PROMPT_LAST

MEMORY = {"cpu": 2**30, "cuda": 2**34}
"""Bytes that a stack of conditions may take, about, by the type of the device."""
WORKING = 8
"""How often its width a token of the residual stream takes while a block runs, about."""

Said = tuple[Condition, torch.Tensor, Sequence[tuple[int, ...]]]
"""A condition, its logits, [questions, vocab], float32, and the tokens of each answer."""


@dataclass(frozen=True)
class Asking:
    """One batch, and what its questions are about."""

    intervention: Intervention
    work: Work
    batch: Batch
    questions: Questions

    def answered(self, group: Group, conditions: Sequence[Condition]) -> Iterator[Said]:
        """What the model says under these conditions of a group."""
        if not conditions:
            return
        limit, family = self.intervention.answer_tokens, self.intervention.family
        positions = _positions(conditions)
        if group.route == FULL:
            yield from self._masked([condition for condition in conditions if condition.kind == MASK])
            for condition in conditions:
                if condition.kind != MASK:
                    edits = self._edits(condition)
                    found = rerun(family, self.questions, edits, positions, limit, self.work.shared)
                    yield condition, found.logits, found.ids
            return
        started = self._started(group)
        for stack in self._stacks(conditions, group.block):
            yield from self._stacked(started, stack, positions)

    def _stacked(self, started: Started, stack: Sequence[Condition], positions: Positions) -> Iterator[Said]:
        """In two halves where the device has no room for all of them.

        Raises VlmlakeError if it has none for a single one.
        """
        edits = [self._edits(condition) for condition in stack]
        try:
            said = answer(started, edits, positions, self.intervention.answer_tokens)
        except torch.OutOfMemoryError as error:
            if len(stack) == 1:
                raise VlmlakeError(
                    f"{started.family.device} has no memory for {started.questions} questions under one condition: "
                    "extract with a smaller --batch-size"
                ) from error
            said = None
        if said is not None:
            yield from zip(stack, said.logits, said.ids, strict=True)
            return
        for half in (stack[: len(stack) // 2], stack[len(stack) // 2 :]):
            yield from self._stacked(started, half, positions)

    def _started(self, group: Group) -> Started:
        shared = self.work.shared and group.block > 0
        if not group.stored:
            return start(
                self.intervention.family, self.questions, group.block, shared, self.intervention.answer_tokens - 1
            )
        askers = [self.work.examples[self.work.items[item].examples[0]].id for item in self.batch.examples]
        run, family = self.intervention.run, self.intervention.family
        return start_from_store(run, family, self.questions, askers, group.block, shared)

    def _masked(self, conditions: Sequence[Condition]) -> Iterator[Said]:
        """The questions about masked images, several conditions' in one batch."""
        if not conditions:
            return
        family, limit = self.intervention.family, self.intervention.answer_tokens
        items = [self.work.items[item] for item in self.batch.examples]
        opened = {item.image_sha256: open_image(item.source, item.image_sha256) for item in items}
        images = [opened[item.image_sha256] for item in items]
        for stack in self._stacks(conditions, 0):
            masks = [self.intervention.masks[condition.set, condition.member] for condition in stack]
            patches = [mask[self.work.examples[item.examples[0]].id] for mask in masks for item in items]
            times = len(stack)
            prompts = [*self.questions.prompts] * times
            asked = masked_questions(family, items * times, images * times, prompts, patches, self.work.shared)
            found = rerun(family, asked, (), "all", limit, self.work.shared)
            for number, condition in enumerate(stack):
                own = slice(number * len(items), (number + 1) * len(items))
                yield condition, found.logits[own], found.ids[own]

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

    def _stacks(self, conditions: Sequence[Condition], block: int) -> Iterator[Sequence[Condition]]:
        """As many conditions together as their rows leave room for."""
        family, asked = self.intervention.family, self.questions
        prefix = max(prompt.split for prompt in asked.prompts)
        suffix = max(prompt.suffix_length for prompt in asked.prompts)
        tokens = (prefix * len(asked.images) + suffix * len(asked.prompts)) / len(asked.prompts)
        cached = 2 * (len(family.blocks) - block) * (prefix + suffix) * family.heads_width
        size = next(family.model.parameters()).element_size()
        row = size * (cached + WORKING * tokens * family.decoder.hidden) + 8 * family.decoder.vocab
        memory = MEMORY.get(family.device.type, MEMORY["cpu"])
        at_once = max(1, int(memory // (row * len(asked.prompts))))
        return (conditions[first : first + at_once] for first in range(0, len(conditions), at_once))


def _positions(conditions: Sequence[Condition]) -> Positions:
    """Those of an intervention's conditions, which have them in common. Raises VlmlakeError if they have not."""
    there = {one.positions for one in conditions if one.positions is not None}
    if len(there) > 1:
        raise VlmlakeError(f"conditions of one intervention edit {' and '.join(sorted(there))}: expected one of them")
    return "prompt_last" if PROMPT_LAST in there else "all"
