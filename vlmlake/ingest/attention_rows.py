"""Attention rows without an eager pass: attention functions that call a kernel and also hand on softmax rows.

transformers' AttentionInterface takes registered functions. Ours leave the output to the kernel and compute rows, in
float32, only while someone asks, for the blocks and queries asked for; nothing of L x H x T x T exists otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import flash_attention_mask, sdpa_mask
from transformers.modeling_flash_attention_utils import _flash_attention_forward

IMPLEMENTATIONS = {"sdpa": "vlmlake_sdpa", "flash_attention_2": "vlmlake_fa2", "eager": "vlmlake_eager"}
"""Names under which the kernels are registered with transformers, which looks for a package where it reads `flash`."""


@dataclass(frozen=True)
class RowsAsked:
    """Which softmax rows are wanted: of which blocks, of which queries (columns of the forward).

    take: called with the block's number and its rows [batch, heads, queries, keys], float32.
    """

    blocks: frozenset[int]
    queries: slice
    take: Callable[[int, torch.Tensor], None]


_asked: ContextVar[RowsAsked | None] = ContextVar("vlmlake_attention_rows", default=None)


@contextmanager
def asking_rows(asked: RowsAsked) -> Iterator[None]:
    """While open, the attention of every decoder block hands on the rows asked for."""
    token = _asked.set(asked)
    try:
        yield
    finally:
        _asked.reset(token)


def attention_rows(
    query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, scaling: float, chosen: slice = slice(None)
) -> torch.Tensor:
    """Softmax rows as an eager attention computes them.

    query: [batch, heads, queries, d]; key: [batch, key-value heads, keys, d]; mask: none (causal, the last query at the
    last key), boolean (true where a query may look) or additive, [batch, 1 or heads, queries, keys], or the padding
    alone, [batch, keys]. chosen: the queries wanted.
    Returns [batch, heads, chosen queries, keys], float32.
    """
    queries, keys = query.shape[2], key.shape[2]
    query = query[:, :, chosen]
    batch, heads, wanted, width = query.shape
    grouped = (query.float() * scaling).reshape(batch, key.shape[1], -1, wanted, width)
    scores = torch.matmul(grouped, key.float()[:, :, None].transpose(-1, -2)).reshape(batch, heads, wanted, keys)
    if mask is not None and mask.ndim == 4:
        mask = mask[:, :, chosen]
    else:
        causal = torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril(keys - queries)[chosen]
        mask = causal if mask is None else causal & mask.bool()[:, None, None, :]
    if mask.dtype == torch.bool:
        _hide(scores, ~mask)
    else:
        scores += mask
    return torch.softmax(scores, dim=-1, out=scores)  # in place: fresh memory would cost more than the softmax


def _hide(scores: torch.Tensor, hidden: torch.Tensor) -> None:
    """Where memory is slow, pass over those keys alone of which some query may not see one: few, once a prefix is
    whole.
    """
    if scores.device.type == "cpu":
        keys = hidden.flatten(0, -2).any(0).nonzero()[:, 0].tolist() or [0]
        scores, hidden = (tensor[..., keys[0] : keys[-1] + 1] for tensor in (scores, hidden))
    scores.masked_fill_(hidden, torch.finfo(scores.dtype).min)


def _sdpa(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **arguments: Any,
) -> tuple[torch.Tensor, None]:
    output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **arguments)
    _hand_on(module, query, key, attention_mask, scaling)
    return output, None


def _flash(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **arguments: Any,
) -> tuple[torch.Tensor, None]:
    """A mask of four dimensions, which the decoding of several branches needs, is beyond flash attention: SDPA takes
    it.
    """
    if attention_mask is not None and attention_mask.ndim == 4:
        return _sdpa(module, query, key, value, attention_mask, scaling=scaling, **arguments)
    output = _flash_attention_forward(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        attention_mask,
        query_length=query.shape[2],
        is_causal=True,
        softmax_scale=scaling,
        attn_implementation="flash_attention_2",
    )
    _hand_on(module, query, key, attention_mask, scaling)
    return output, None


def _eager(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **arguments: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    rows = attention_rows(query, key, attention_mask, scaling or query.shape[-1] ** -0.5)
    asked = _asked.get()
    number = _number(module)
    if asked is not None and number in asked.blocks:
        asked.take(number, rows[:, :, asked.queries])
    batch, heads, queries, keys = rows.shape
    grouped = rows.to(value.dtype).reshape(batch, value.shape[1], -1, queries, keys)
    output = torch.matmul(grouped, value[:, :, None]).reshape(batch, heads, queries, -1)
    return output.transpose(1, 2).contiguous(), rows


def _hand_on(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, scaling: float | None
) -> None:
    asked = _asked.get()
    number = _number(module)
    if asked is not None and number in asked.blocks:
        rows = attention_rows(query, key, mask, scaling or query.shape[-1] ** -0.5, asked.queries)
        asked.take(number, rows)


def _number(module: nn.Module) -> int:
    number = module.layer_idx
    assert isinstance(number, int)
    return number


for _name, _function, _mask in (
    ("sdpa", _sdpa, sdpa_mask),
    ("flash_attention_2", _flash, flash_attention_mask),
    ("eager", _eager, sdpa_mask),
):
    AttentionInterface.register(IMPLEMENTATIONS[_name], _function)
    AttentionMaskInterface.register(IMPLEMENTATIONS[_name], _mask)
