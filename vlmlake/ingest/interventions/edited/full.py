"""The plain route: the whole model again for one condition, as the pass ran it, with the edits made by hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from vlmlake.ingest.capture import Wanted
from vlmlake.ingest.decoding import Decoding
from vlmlake.ingest.families.base import Family
from vlmlake.ingest.generation import Questions, run_batch
from vlmlake.ingest.interventions.edited.edits import Edits, Rows, Scope, edited, overlays
from vlmlake.ingest.interventions.edited.suffix import Positions

NOTHING_BUT_LOGITS = Wanted(frozenset({"logits"}), (), (0,), torch.float32, torch.float32)
"""What is kept of a rerun."""


@dataclass(frozen=True)
class Rerun:
    """logits: [questions, vocab], float32, of the first token. ids: the tokens of each answer, with the end token where
    one came.
    """

    logits: torch.Tensor
    ids: tuple[tuple[int, ...], ...]


def rerun(
    family: Family, asked: Questions, condition: Edits, positions: Positions, answer_tokens: int, shared: bool
) -> Rerun:
    """Greedy answers of at most `answer_tokens` tokens under one condition. shared: each prefix runs once.

    Raises VlmlakeError for an edit of what the model does not have, or if a value is not finite.
    """
    changes = overlays(family, [condition])
    with _forwards(family) as number:
        scope = _scope(asked, positions, int(shared), number)
        with edited(family, changes, scope):
            forward = run_batch(family, NOTHING_BUT_LOGITS, asked, Decoding(answer_tokens), shared)
    forward.host.wait()
    assert forward.suffix.logits is not None
    return Rerun(forward.suffix.logits[:, -1], tuple(answer.ids for answer in forward.answers))


def _scope(asked: Questions, positions: Positions, prompt: int, forwards: _Counted) -> Callable[[], Scope | None]:
    """prompt: number of the forward whose last column is prompt_last."""

    def scope() -> Scope | None:
        device = forwards.stream.device
        if positions == "all":
            return Scope(Rows.stacked(1, 1, device))
        if forwards.number != prompt:
            return None
        where = torch.zeros(forwards.stream.shape[:2], dtype=torch.bool, device=device)
        where[:, -1] = True
        return Scope(Rows.stacked(1, len(asked.prompts), device), where)

    return scope


@dataclass
class _Counted:
    """The forward that is under way. number: from 0. stream: [rows, columns, hidden], as it enters the first block."""

    number: int = -1
    stream: torch.Tensor = field(default_factory=lambda: torch.empty(0))


@contextmanager
def _forwards(family: Family) -> Iterator[_Counted]:
    counted = _Counted()

    def count(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        counted.number += 1
        counted.stream = arguments[0] if arguments else keywords["hidden_states"]

    hook = family.blocks[0].register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield counted
    finally:
        hook.remove()
