"""From the device to the host: activations in the dtype of the store, copied while the model goes on."""

from __future__ import annotations

import torch


class Host:
    """Takes tensors off their device. On CUDA into pinned memory on a side stream: what `take` gives may be read only
    after `wait`.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._streams: dict[torch.device, torch.cuda.Stream] = {}

    def take(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy of `tensor` in the store's dtype, on the host."""
        smaller = tensor.to(self.dtype, copy=True)
        if smaller.device.type != "cuda":
            return smaller.to("cpu")
        stream = self._stream(smaller.device)
        stream.wait_stream(torch.cuda.current_stream(smaller.device))
        with torch.cuda.stream(stream):
            copy = torch.empty(smaller.shape, dtype=self.dtype, pin_memory=True)
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
