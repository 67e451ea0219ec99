"""Attention rows without an eager pass: an attention function that calls SDPA and also keeps softmax rows.

transformers' AttentionInterface takes registered functions. Ours leaves the output to SDPA and computes the rows, in
float32, only while a recording is open; nothing of L x H x T x T exists otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

IMPLEMENTATION = "vlmlake_sdpa"

Rows = dict[int, torch.Tensor]
"""Per decoder block, softmax rows [batch, heads, queries, keys], float32."""

_open_recording: ContextVar[Rows | None] = ContextVar("vlmlake_attention_rows", default=None)


@contextmanager
def recording_rows() -> Iterator[Rows]:
    """While open, every decoder block's attention leaves its rows in the dictionary."""
    rows: Rows = {}
    token = _open_recording.set(rows)
    try:
        yield rows
    finally:
        _open_recording.reset(token)


def attention_rows(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, scaling: float) -> torch.Tensor:
    """Softmax rows as an eager attention computes them.

    query: [batch, heads, queries, d]; key: [batch, key-value heads, keys, d]; mask: none (causal, the last query at the
    last key), boolean (true where a query may look) or additive, [batch, 1 or heads, queries, keys].
    Returns [batch, heads, queries, keys], float32.
    """
    batch, heads, queries, width = query.shape
    keys = key.shape[2]
    grouped = query.float().reshape(batch, key.shape[1], -1, queries, width)
    scores = torch.matmul(grouped, key.float()[:, :, None].transpose(-1, -2)).reshape(batch, heads, queries, keys)
    scores *= scaling
    unseen = torch.finfo(scores.dtype).min
    if mask is None:
        offset = keys - queries
        seen = torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril(offset)
        scores.masked_fill_(~seen, unseen)
    elif mask.dtype == torch.bool:
        scores.masked_fill_(~mask, unseen)
    else:
        scores += mask
    return scores.softmax(dim=-1)


def _attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **arguments: Any,
) -> tuple[torch.Tensor, None]:
    output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **arguments)
    rows = _open_recording.get()
    if rows is not None:
        number = module.layer_idx
        assert isinstance(number, int)
        rows[number] = attention_rows(query, key, attention_mask, scaling or query.shape[-1] ** -0.5)
    return output, None


AttentionInterface.register(IMPLEMENTATION, _attention)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
