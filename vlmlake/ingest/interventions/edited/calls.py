"""The call of one block, taken out of a forward pass, and the blocks from there on run again from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache

from vlmlake.errors import VlmlakeError
from vlmlake.ingest.families.base import Family

CACHE = "past_key_values"


ROW_AXES = {"attention_mask": 0, "position_ids": -2, "position_embeddings": -3}
"""Of the tensors among a block's keywords the axis of the batch's rows."""
COLUMN_AXES = {"attention_mask": -2, "position_ids": -1, "position_embeddings": -2}
"""And that of the columns (of a mask those of the queries)."""


@dataclass(frozen=True)
class BlockCall:
    """What a block was called with. stream: [rows, columns, hidden]. keywords: mask, positions and the like; no cache.

    Raises VlmlakeError if a keyword is a tensor of which it is not known where the rows are.
    """

    stream: torch.Tensor
    keywords: Mapping[str, Any]

    def __post_init__(self) -> None:
        for name, value in self.keywords.items():
            if name not in ROW_AXES and any(isinstance(one, torch.Tensor) for one in _each(value)):
                raise VlmlakeError(f"a block takes {name}, which is not known: expected {', '.join(ROW_AXES)}")

    def chosen(self, places: torch.Tensor) -> BlockCall:
        """These of its rows, [n], each as often as it is named."""
        rows = len(self.stream)

        def take(name: str, value: torch.Tensor) -> torch.Tensor:
            axis = ROW_AXES[name]
            return value if value.shape[axis] != rows else value.index_select(axis % value.ndim, places)

        return BlockCall(self.stream[places], self._mapped(take))

    def columns(self, first: int, last: int) -> BlockCall:
        """The same for the columns from `first` up to `last`, not counted from the end; keys up to there, too."""
        ahead = self.stream.shape[1] - last

        def cut(name: str, value: torch.Tensor) -> torch.Tensor:
            if name == "attention_mask" and value.ndim == 2:  # flash attention's, over keys alone
                return value[:, : value.shape[1] - ahead]
            value = value.narrow(COLUMN_AXES[name], first, last - first)
            return value[..., : value.shape[-1] - ahead] if name == "attention_mask" else value

        return BlockCall(self.stream[:, first:last], self._mapped(cut))

    def _mapped(self, change: Callable[[str, torch.Tensor], torch.Tensor]) -> dict[str, Any]:
        def of(name: str, value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(of(name, one) for one in value)
            return change(name, value) if isinstance(value, torch.Tensor) else value

        return {name: of(name, value) for name, value in self.keywords.items()}


def _each(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


class _BlockReachedError(Exception):
    """The block was called: what follows is not needed."""


def call_of_block(family: Family, block: int, **arguments: Any) -> BlockCall:
    """How a block is called in a forward of the model with these arguments, which goes no further than that; for the
    number after the last block's, how the final norm is.

    Blocks before it leave their keys and values in the cache that is among the arguments, if there is one.
    """
    found: list[BlockCall] = []

    def stop(module: nn.Module, positional: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        rest = {name: value for name, value in keywords.items() if name not in (CACHE, "hidden_states")}
        found.append(BlockCall(positional[0] if positional else keywords["hidden_states"], rest))
        raise _BlockReachedError

    module = family.blocks[block] if block < len(family.blocks) else family.final_norm
    hook = module.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        family.model(**arguments)
    except _BlockReachedError:
        return found[0]
    finally:
        hook.remove()
    raise RuntimeError(f"the forward never came to block {block}")


def run_from(family: Family, block: int, call: BlockCall, cache: Cache | None = None) -> torch.Tensor:
    """The residual stream after the last block, [rows, columns, hidden], where block `block` is called so.

    cache: keys and values of the tokens before, of these blocks; they add their own.
    """
    stream, keywords = call.stream, {**call.keywords, "use_cache": cache is not None}
    for module in family.blocks[block:]:
        output = module(stream, **keywords, **{CACHE: cache})
        stream = output[0] if isinstance(output, tuple) else output
    return stream
