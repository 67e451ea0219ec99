"""How often the decoder's blocks really run: one block over one token of one row is one evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from vlmlake.ingest.families import Family


@dataclass
class Counted:
    evaluations: int = 0


@contextmanager
def counting(family: Family) -> Iterator[Counted]:
    """A hook behind every block, so that one whose call is only looked at does not count."""
    counted = Counted()

    def add(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        stream = output[0] if isinstance(output, tuple) else output
        rows, columns, _ = stream.shape
        counted.evaluations += rows * columns

    with ExitStack() as stack:
        for block in family.blocks:
            stack.callback(block.register_forward_hook(add).remove)
        yield counted
