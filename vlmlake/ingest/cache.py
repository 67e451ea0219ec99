"""A key-value cache with room for what is to come: a step writes its keys in place and copies nothing that is there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer


class _RoomyLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """One block's keys and values, [batch, key-value heads, tokens, d], as the first part of a larger buffer."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, rows: Sequence[int], room: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True
        self._buffers = [_with_room(states, rows, room) for states in (keys, values)]
        self._show(keys.shape[-2])

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *arguments: Any, **keywords: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        start, end = self._tokens, self._tokens + key_states.shape[-2]
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, start:end] = states
        return self._show(end)

    def _show(self, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = (buffer[:, :, :tokens] for buffer in self._buffers)
        self._tokens, self.keys, self.values = tokens, keys, values
        return keys, values


def with_room(cache: Any, rows: Sequence[int], room: int, first: int = 0) -> DynamicCache:
    """The given rows of a cache, each as often as it is named, with room for so many more tokens.

    first: number of the first block that has left something there; those before it stay empty.
    """
    roomy = DynamicCache()
    empty = [DynamicLayer() for _ in range(first)]  # type: ignore[no-untyped-call]
    roomy.layers = [*empty, *(_RoomyLayer(layer.keys, layer.values, rows, room) for layer in cache.layers[first:])]
    return roomy


def _with_room(states: torch.Tensor, rows: Sequence[int], room: int) -> torch.Tensor:
    _, heads, tokens, width = states.shape
    buffer = states.new_empty((len(rows), heads, tokens + room, width))
    for place, row in enumerate(rows):
        buffer[place, :, :tokens] = states[row]
    return buffer
