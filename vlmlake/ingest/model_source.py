"""Which model, from where, and how it is to run; checked before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from vlmlake.errors import VlmlakeError

ATTENTIONS = ("sdpa", "flash_attention_2", "eager")
DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class ModelSource:
    """A model folder or hub id.

    revision: branch, tag or commit on the hub. dtype: of the weights, `auto` for the checkpoint's. device: where it
    runs, unless device_map (`auto`: over all accelerators, by the package accelerate) says so. attention: the kernel
    of the decoder; rows are computed beside it. trust_remote_code: run code that comes with the checkpoint.
    """

    name: str
    revision: str | None = None
    dtype: str = "auto"
    device: str = "cpu"
    device_map: str | None = None
    attention: str = "sdpa"
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if not self.name:
            raise VlmlakeError("the model is empty: expected a folder of save_pretrained or a hub id like org/name")
        for what, given, known in (("model dtype", self.dtype, DTYPES), ("attention", self.attention, ATTENTIONS)):
            if given not in known:
                raise VlmlakeError(f"{what} is {given}, expected one of {', '.join(known)}")
