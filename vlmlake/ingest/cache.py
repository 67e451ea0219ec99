"""A key-value cache with room for what is to come: a step writes its keys in place and copies nothing that is there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer


class _RoomyLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """One block's keys and values, [batch, key-value heads, tokens, d], as the first part of a larger buffer."""

    def __init__(self, buffers: Sequence[torch.Tensor], tokens: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtype, self.device = buffers[0].dtype, buffers[0].device
        self.is_initialized = True
        self._buffers = buffers
        self._show(tokens)

    @classmethod
    def of(cls, layer: Any, rows: Sequence[int], room: int) -> _RoomyLayer:
        """These rows of a layer; in the buffers that it has where they hold just them, and the room."""
        tokens = layer.keys.shape[-2]
        if isinstance(layer, cls) and layer._fits(rows, tokens + room):
            return cls(layer._buffers, tokens)
        return cls([_with_room(states, rows, room) for states in (layer.keys, layer.values)], tokens)

    def _fits(self, rows: Sequence[int], tokens: int) -> bool:
        return list(rows) == list(range(len(self._buffers[0]))) and tokens <= self._buffers[0].shape[2]

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

    first: number of the first block that has left something there; those before it stay empty. Where the cache has the
    room and all its rows are named in order, nothing is copied: the two share what they hold, and write what is to come
    into the same place, so that only one of them may go on at a time.
    """
    roomy = DynamicCache()
    empty = [DynamicLayer() for _ in range(first)]  # type: ignore[no-untyped-call]
    roomy.layers = [*empty, *(_RoomyLayer.of(layer, rows, room) for layer in cache.layers[first:])]
    return roomy


def _with_room(states: torch.Tensor, rows: Sequence[int], room: int) -> torch.Tensor:
    _, heads, tokens, width = states.shape
    buffer = states.new_empty((len(rows), heads, tokens + room, width))
    for place, row in enumerate(rows):
        buffer[place, :, :tokens] = states[row]
    return buffer
