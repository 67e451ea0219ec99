"""Where the tokens of a batch lie: prefixes padded on the left, then suffixes padded on the left, then the answers.

Every example's `prompt_last` is the last column of the suffixes. With and without a shared prefix the columns are the
same, so that what follows does not care.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vlmlake.ingest.families.base import Prompt


@dataclass(frozen=True)
class Columns:
    """prefix, suffix: how many columns each part has."""

    prefix: int
    suffix: int

    @classmethod
    def of(cls, prompts: Sequence[Prompt]) -> Columns:
        return cls(max(prompt.split for prompt in prompts), max(prompt.suffix_length for prompt in prompts))

    def prefixes(self, prompts: Sequence[Prompt], pad: int) -> Padded:
        return _padded(prompts, [slice(0, prompt.split) for prompt in prompts], self.prefix, pad)

    def suffixes(self, prompts: Sequence[Prompt], pad: int) -> Padded:
        return _padded(prompts, [slice(prompt.split, None) for prompt in prompts], self.suffix, pad)


@dataclass(frozen=True)
class Padded:
    """ids, roles, seen: [rows, columns]; seen is 1 where a token is, roles are -1 elsewhere. positions: [axes, rows,
    columns].
    """

    ids: np.ndarray
    roles: np.ndarray
    seen: np.ndarray
    positions: np.ndarray

    def beside(self, other: Padded) -> Padded:
        """These columns, then the other's."""
        return Padded(
            ids=np.concatenate([self.ids, other.ids], axis=-1),
            roles=np.concatenate([self.roles, other.roles], axis=-1),
            seen=np.concatenate([self.seen, other.seen], axis=-1),
            positions=np.concatenate([self.positions, other.positions], axis=-1),
        )


def _padded(prompts: Sequence[Prompt], parts: Sequence[slice], width: int, pad: int) -> Padded:
    shape = (len(prompts), width)
    ids, roles = np.full(shape, pad, np.int64), np.full(shape, -1, np.int8)
    seen = np.zeros(shape, np.int64)
    positions = np.zeros((len(prompts[0].positions), *shape), np.int64)
    for number, (prompt, chosen) in enumerate(zip(prompts, parts, strict=True)):
        first = width - len(prompt.ids[chosen])
        ids[number, first:] = prompt.ids[chosen]
        roles[number, first:] = prompt.roles[chosen]
        seen[number, first:] = 1
        positions[:, number, first:] = prompt.positions[:, chosen]
    return Padded(ids, roles, seen, positions)
