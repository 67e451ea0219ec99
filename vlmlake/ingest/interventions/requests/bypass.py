"""Layer bypass: a block, or one of its halves, adds nothing to the residual stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from vlmlake.errors import VlmlakeError
from vlmlake.ingest.interventions.edited.edits import ATTN_OUT, MLP_OUT, Edit
from vlmlake.ingest.interventions.requests.conditions import (
    ALL,
    BYPASS,
    POSITIONS,
    ZERO,
    Condition,
    block_label,
    block_number,
)
from vlmlake.ingest.interventions.requests.subject import Request, Subject

PARTS = {"attention": (ATTN_OUT,), "mlp": (MLP_OUT,), "block": (ATTN_OUT, MLP_OUT)}
"""What each leaves out."""


@dataclass(frozen=True)
class Bypass(Request):
    """Take the writes of blocks away, one block and part at a time.

    parts: of PARTS: `attention`, `mlp`, or `block` for both. layers: blocks by label, all of them unless given.
    positions: `all` tokens or `prompt_last`.
    """

    kind: ClassVar[str] = BYPASS

    parts: tuple[str, ...] = tuple(PARTS)
    layers: tuple[str, ...] = ()
    positions: str = ALL

    def __post_init__(self) -> None:
        unknown = [part for part in self.parts if part not in PARTS]
        if unknown or not self.parts:
            raise VlmlakeError(f"parts are {', '.join(self.parts) or 'none'}, expected some of {', '.join(PARTS)}")
        if self.positions not in POSITIONS:
            raise VlmlakeError(f"positions is {self.positions}, expected one of {', '.join(POSITIONS)}")
        for layer in self.layers:
            block_number(layer)

    def conditions(self, subject: Subject) -> tuple[Condition, ...]:
        """One for each block and part."""
        layers = self.layers or tuple(block_label(number) for number in range(subject.blocks))
        for layer in layers:
            subject.require_block(layer)
        neurons = np.arange(subject.run.record.extents.hidden)
        nothing = np.zeros(len(neurons), np.float32)
        return tuple(
            Condition(
                BYPASS,
                part,
                subject.answer_tokens,
                layer=layer,
                mode=ZERO,
                positions=self.positions,
                edits=tuple(Edit(site, block_number(layer), neurons, nothing) for site in PARTS[part]),
            )
            for layer in layers
            for part in self.parts
        )
