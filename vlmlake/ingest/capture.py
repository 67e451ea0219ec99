"""Residual streams, block writes and attention rows out of one forward pass, without leaving anything behind on the
model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from vlmlake.ingest.attention_rows import RowsAsked, asking_rows
from vlmlake.ingest.families.base import Family
from vlmlake.ingest.host import Host
from vlmlake.store_schema.run_record import RunRecord
from vlmlake.store_schema.schema import layer_names, position_names, weight_dtype


@dataclass(frozen=True)
class Wanted:
    """What a run keeps, as the forwards need to know it.

    arrays: names of schema.ARRAYS. layers: numbers of the layers kept, 0 for `embed`, l + 1 for block l. positions:
    numbers of the positions kept, 0 for prompt_last, t + 1 for answer token t. dtype, weight_dtype: of
    activations and of attention in the store.
    """

    arrays: frozenset[str]
    layers: tuple[int, ...]
    positions: tuple[int, ...]
    dtype: torch.dtype
    weight_dtype: torch.dtype

    @classmethod
    def of(cls, record: RunRecord, blocks: int, answer_tokens: int) -> Wanted:
        layers, positions = layer_names(blocks), position_names(answer_tokens)
        return cls(
            arrays=frozenset(record.arrays),
            layers=tuple(layers.index(name) for name in record.layers),
            positions=tuple(positions.index(name) for name in record.positions),
            dtype=getattr(torch, record.stored_dtype),
            weight_dtype=getattr(torch, weight_dtype(record.stored_dtype)),
        )

    def __contains__(self, array: str) -> bool:
        return array in self.arrays


@dataclass(frozen=True)
class Keep:
    """Which columns (tokens, padding included) of one forward to keep.

    states, rows: of the residual streams and of the attention's queries. keys: of the attention's keys, all unless
    given. writes: what the blocks' halves wrote in the last column. image: [batch, columns], true at image tokens,
    where the norm of their update is wanted.
    """

    states: slice | None = None
    rows: slice | None = None
    keys: torch.Tensor | None = None
    writes: bool = False
    image: torch.Tensor | None = None


ALL = slice(None)
LAST = slice(-1, None)

Layers = dict[int, torch.Tensor]
"""Something by the number of its layer (0 for `embed`), on the host, in the store's dtype."""


@dataclass(frozen=True)
class Kept:
    """What one forward left. states: [batch, columns, hidden]; rows: [batch, heads, queries, keys]; attn_write,
    mlp_write: [batch, hidden]; image_update: [batch]; logits: [batch, columns, vocab]. What was not asked for is
    empty.
    """

    states: Layers = field(default_factory=dict)
    rows: Layers = field(default_factory=dict)
    attn_write: Layers = field(default_factory=dict)
    mlp_write: Layers = field(default_factory=dict)
    image_update: Layers = field(default_factory=dict)
    logits: torch.Tensor | None = None
    finite: list[torch.Tensor] = field(default_factory=list)

    def split(self, column: int, keep: Keep, second_keeps: Keep) -> tuple[Kept, Kept]:
        """What lies before a column, and from it on. Where all columns were kept (see `keep`) they are shared out, else
        they belong to the second part, if it keeps any (see `second_keeps`); writes too, updates to the first.
        """
        states, rows = keep.states == ALL, keep.rows == ALL
        first = Kept(
            states={layer: kept[:, :column] for layer, kept in self.states.items()} if states else {},
            rows={layer: kept[:, :, :column] for layer, kept in self.rows.items()} if rows else {},
            image_update=self.image_update,
            finite=self.finite,
        )
        second = replace(
            self,
            states={layer: kept[:, column:] for layer, kept in self.states.items()} if states else self.states,
            rows={layer: kept[:, :, column:] for layer, kept in self.rows.items()} if rows else self.rows,
            image_update={},
            finite=[],
        )
        if second_keeps.states is None:
            second = replace(second, states={})
        if second_keeps.rows is None:
            second = replace(second, rows={})
        return first, second


@contextmanager
def recording(family: Family, layers: tuple[int, ...], keep: Keep, host: Host) -> Iterator[Kept]:
    """Record the one forward pass made inside the block: what `keep` says, of these layers, taken to the host.

    Whether the last block's output is finite is noted in any case.
    """
    kept = Kept()
    calls = [0]
    blocks = frozenset(layer - 1 for layer in layers if layer > 0)

    def before(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        calls[0] += 1
        if keep.states is not None and 0 in layers:
            kept.states[0] = host.take(_input(arguments, keywords)[:, keep.states])

    def after(
        number: int, module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], output: Any
    ) -> None:
        stream = _first(output)
        if number == len(family.blocks) - 1:
            kept.finite.append(torch.isfinite(stream).all())
        if number not in blocks:
            return
        if keep.states is not None:
            kept.states[number + 1] = host.take(stream[:, keep.states])
        if keep.image is not None:
            image = keep.image.to(stream.device)
            norms = (stream.float() - _input(arguments, keywords).float()).norm(dim=-1)
            kept.image_update[number + 1] = host.take((norms * image).sum(-1) / image.sum(-1))

    def write(target: Layers, number: int, module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        target[number + 1] = host.take(_first(output)[:, -1])

    def rows(number: int, values: torch.Tensor) -> None:
        chosen = values if keep.keys is None else values[..., keep.keys.to(values.device)]
        kept.rows[number + 1] = host.take_weights(chosen)

    with ExitStack() as stack:
        stack.callback(family.blocks[0].register_forward_pre_hook(before, with_kwargs=True).remove)
        for number, block in enumerate(family.blocks):
            hook = block.register_forward_hook(partial(after, number), with_kwargs=True)
            stack.callback(hook.remove)
        if keep.writes:
            for target, modules in ((kept.attn_write, family.attentions), (kept.mlp_write, family.mlps)):
                for number in blocks:
                    hook = modules[number].register_forward_hook(partial(write, target, number))
                    stack.callback(hook.remove)
        if keep.rows is not None:
            stack.enter_context(asking_rows(RowsAsked(blocks, keep.rows, rows)))
        yield kept
    if calls != [1]:
        raise RuntimeError(f"a recording holds one forward pass, this one saw {calls[0]}")


def _input(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> torch.Tensor:
    stream: torch.Tensor = arguments[0] if arguments else keywords["hidden_states"]
    return stream


def _first(output: Any) -> torch.Tensor:
    stream: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return stream
