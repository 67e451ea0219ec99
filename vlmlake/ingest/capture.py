"""Residual streams and attention rows out of one forward pass, without leaving anything behind on the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from vlmlake.ingest.attention_rows import Rows, recording_rows
from vlmlake.ingest.families.base import Family


@dataclass
class Recording:
    """What one forward pass wrote; complete once the `recording` block has ended.

    blocks: residual streams by layer, `embed` first, each [batch, tokens, hidden]. rows: see attention_rows.Rows.
    """

    blocks: list[torch.Tensor] = field(default_factory=list)
    rows: Rows = field(default_factory=dict)

    @property
    def states(self) -> torch.Tensor:
        """[batch, layers, tokens, hidden], before the final norm."""
        return torch.stack(self.blocks, dim=1)

    @property
    def attention(self) -> torch.Tensor:
        """[batch, blocks, heads, queries, keys], float32."""
        return torch.stack([self.rows[number] for number in sorted(self.rows)], dim=1)


@contextmanager
def recording(family: Family, attention: bool) -> Iterator[Recording]:
    """Record the one forward pass made inside the block; with `attention`, every query's rows too."""
    record = Recording()

    def keep_input(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        record.blocks.append(arguments[0] if arguments else keywords["hidden_states"])

    def keep_output(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        record.blocks.append(output[0] if isinstance(output, tuple) else output)

    with ExitStack() as stack:
        first = family.blocks[0].register_forward_pre_hook(keep_input, with_kwargs=True)
        stack.callback(first.remove)
        for block in family.blocks:
            stack.callback(block.register_forward_hook(keep_output).remove)
        if attention:
            record.rows = stack.enter_context(recording_rows())
        yield record
    passes = len(record.blocks) / (len(family.blocks) + 1)
    if passes != 1:
        raise RuntimeError(f"a recording holds one forward pass, this one saw {passes:g}")
