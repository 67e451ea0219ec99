"""Head ablation: what one attention head, or each in turn, writes is taken away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl

from vlmlake.errors import VlmlakeError
from vlmlake.ingest.interventions.edited.edits import HEAD_OUT, Edit
from vlmlake.ingest.interventions.requests.ablation import MODES
from vlmlake.ingest.interventions.requests.conditions import ALL, HEADS, MEAN, POSITIONS, ZERO, Condition, block_number
from vlmlake.ingest.interventions.requests.subject import Request, Subject, examples_and_spare
from vlmlake.store_schema.run import Run


@dataclass(frozen=True)
class HeadAblation(Request):
    """Set the output of attention heads, one at a time, before it is projected onto the residual stream.

    layer: the block, by label. heads: their numbers, all of the block unless given. mode: `zero`, or `mean`, what the
    head's output is on average on images that are not asked about. positions: `all` tokens or `prompt_last`.

    Method: zero and mean ablation of heads as in Michel et al. 2019 (Are Sixteen Heads Really Better than One?).
    """

    kind: ClassVar[str] = HEADS

    layer: str
    heads: tuple[int, ...] = ()
    mode: str = ZERO
    positions: str = ALL
    seed: int = 0

    def __post_init__(self) -> None:
        block_number(self.layer)
        for name, known in (("mode", MODES), ("positions", POSITIONS)):
            if getattr(self, name) not in known:
                raise VlmlakeError(f"{name} is {getattr(self, name)}, expected one of {', '.join(known)}")

    def examples(self, run: Run, given: Sequence[str] | None) -> tuple[pl.DataFrame, pl.DataFrame]:
        """All, unless they are given; with means half of the images, which are then measured on the other half."""
        if self.mode == MEAN:
            return examples_and_spare(run, given, self.seed)
        return super().examples(run, given)

    def conditions(self, subject: Subject) -> tuple[Condition, ...]:
        """One for each head."""
        subject.require_block(self.layer)
        wrong = [head for head in self.heads if not 0 <= head < subject.heads]
        if wrong:
            raise VlmlakeError(f"{self.layer} of {subject.run.name} has heads 0 to {subject.heads - 1}, got {wrong[0]}")
        block, width = block_number(self.layer), subject.head_width
        values = np.zeros(subject.width(HEAD_OUT), np.float32)
        if self.mode == MEAN:
            values = subject.measure((HEAD_OUT, block), self.positions, subject.spare["example"].to_list()).mean
        found = []
        for head in self.heads or range(subject.heads):
            neurons = np.arange(head * width, (head + 1) * width)
            found.append(
                Condition(
                    HEADS,
                    "head",
                    subject.answer_tokens,
                    site=HEAD_OUT,
                    layer=self.layer,
                    head=head,
                    mode=self.mode,
                    positions=self.positions,
                    edits=(Edit(HEAD_OUT, block, neurons, values[neurons]),),
                    seed=self.seed,
                )
            )
        return tuple(found)
