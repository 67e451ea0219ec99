"""From the device to the host: activations and attention in the dtypes of the store, copied while the model goes on."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import torch


class Host:
    """Takes tensors off their device. On CUDA into pinned memory on a side stream: what `take` gives may be read only
    after `wait`. dtype, weight_dtype: of activations and of attention in the store.
    """

    def __init__(self, dtype: torch.dtype, weight_dtype: torch.dtype) -> None:
        self.dtype, self.weight_dtype = dtype, weight_dtype
        self._streams: dict[torch.device, torch.cuda.Stream] = {}

    def take(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy of activations in the store's dtype, on the host."""
        return self._take(tensor, self.dtype)

    def take_weights(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy of attention in the store's dtype, on the host."""
        return self._take(tensor, self.weight_dtype)

    def _take(self, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        smaller = tensor.to(dtype, copy=True)
        if smaller.device.type != "cuda":
            return smaller.to("cpu")
        stream = self._stream(smaller.device)
        stream.wait_stream(torch.cuda.current_stream(smaller.device))
        with torch.cuda.stream(stream):
            copy = torch.empty(smaller.shape, dtype=dtype, pin_memory=True)
            copy.copy_(smaller, non_blocking=True)
        smaller.record_stream(stream)
        return copy

    def _stream(self, device: torch.device) -> torch.cuda.Stream:
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        return self._streams[device]

    def wait(self) -> None:
        """Return once every copy is there."""
        for stream in self._streams.values():
            stream.synchronize()


def as_array(tensor: torch.Tensor) -> np.ndarray:
    """The memory of a tensor on the host; bfloat16, which torch gives to no one, as ml_dtypes' by its bits."""
    if tensor.dtype != torch.bfloat16:
        return tensor.numpy()
    return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
