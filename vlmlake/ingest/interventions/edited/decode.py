"""Answers under conditions, token by token, from the edited state: each goes on with its own keys and values from the
edited block on, and shares what lies before with all that said the same so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers.cache_utils import DynamicCache

from vlmlake.ingest.arguments import position_ids
from vlmlake.ingest.cache import with_room
from vlmlake.ingest.interventions.edited.edits import Edits, Rows
from vlmlake.ingest.interventions.edited.suffix import Changes, Positions, Started


@dataclass(frozen=True)
class Said:
    """What a model says under several conditions. logits: [conditions, questions, vocab], float32, of the first token.
    ids: [conditions][questions], the tokens of each answer, with the end token where one came.
    """

    logits: torch.Tensor
    ids: tuple[tuple[tuple[int, ...], ...], ...]


@torch.inference_mode()
def answer(started: Started, conditions: Sequence[Edits], positions: Positions, answer_tokens: int) -> Said:
    """Greedy answers of at most `answer_tokens` tokens.

    Raises VlmlakeError for an edit that has an effect before the block, or of what the model does not have.
    """
    changes = Changes.of(started.family, conditions, started.block)
    prompted = started.prompted(changes, positions)
    logits = started.unembedded(prompted.stream)
    ids = [[token] for token in logits.argmax(-1).tolist()]
    running = _Running.of(started, prompted.cache, len(conditions), ids, answer_tokens)
    while (left := running.next()) is not None:
        said = running.step(started, changes, positions)
        for place, token in zip(left, said.tolist(), strict=True):
            ids[place].append(token)
    told = [tuple(one) for one in ids]
    questions = started.questions
    return Said(
        logits.view(len(conditions), questions, -1),
        tuple(tuple(told[first : first + questions]) for first in range(0, len(told), questions)),
    )


@dataclass
class _Running:
    """The answers that have not ended. places: among all, conditions one after another; tokens: their last; rows: their
    conditions and questions. before: keys and values of the blocks that no condition changes, a row for each question
    and distinct beginning of an answer, `beginnings` of them; path: the row of each answer. after: of the blocks that
    conditions change.
    """

    ends: torch.Tensor
    limit: int
    block: int
    places: torch.Tensor
    tokens: torch.Tensor
    rows: Rows
    before: DynamicCache
    path: torch.Tensor
    after: DynamicCache | None
    said: int = 1
    beginnings: int = 0

    @classmethod
    def of(
        cls, started: Started, after: DynamicCache | None, conditions: int, ids: list[list[int]], limit: int
    ) -> _Running:
        device = started.seen.device
        rows = Rows.stacked(conditions, started.questions, device)
        return cls(
            ends=torch.tensor(sorted(started.family.end_tokens), device=device),
            limit=limit,
            block=started.block,
            places=torch.arange(len(ids), device=device),
            tokens=torch.tensor([one[-1] for one in ids], device=device),
            rows=rows,
            before=started.cache,
            path=rows.question,
            after=after,
        )

    def next(self) -> list[int] | None:
        """Let go of those that have ended; the places of the others, none where none is left."""
        if self.said == self.limit:
            return None
        left = torch.nonzero(~torch.isin(self.tokens, self.ends))[:, 0]
        if not len(left):
            return None
        if len(left) < len(self.tokens) or self.said == 1:
            self.places, self.tokens, self.path = self.places[left], self.tokens[left], self.path[left]
            self.rows = self.rows.chosen(left)
            if self.after is not None:
                self.after = with_room(self.after, left.tolist(), self.limit - self.said, self.block)
        return self.places.tolist()

    def step(self, started: Started, changes: Changes, positions: Positions) -> torch.Tensor:
        """The next token of each, [answers]."""
        begun = torch.stack([self.path, self.tokens], dim=1)
        distinct, self.path = torch.unique(begun, dim=0, return_inverse=True)
        if self.said == 1 or not torch.equal(distinct[:, 0], torch.arange(self.beginnings, device=distinct.device)):
            room = self.limit - self.said
            self.before = with_room(self.before, distinct[:, 0].tolist(), room) if started.block else self.before
        self.beginnings = len(distinct)
        question = torch.empty(len(distinct), dtype=torch.long, device=distinct.device)
        question[self.path] = self.rows.question
        mask = torch.nn.functional.pad(started.seen[question], (0, self.said), value=True)
        part = started.part_of_step(distinct[:, 1:], mask, self._positions(started, question), self.before)
        cache = self.after if self.after is not None else DynamicCache()
        logits = started.step(part.chosen(self.path), changes, self.rows, positions, cache)
        self.tokens = logits.argmax(-1)
        self.said += 1
        return self.tokens

    def _positions(self, started: Started, question: torch.Tensor) -> torch.Tensor:
        prompts = [started.asked.prompts[number] for number in question.tolist()]
        places = np.array([prompt.next_position + self.said - 1 for prompt in prompts])
        axes = len(started.asked.prompts[0].positions)
        return position_ids(started.family, np.broadcast_to(places[None, :, None], (axes, len(places), 1)))
