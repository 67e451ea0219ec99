"""What a pass is asked to do, checked before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmlake.errors import VlmlakeError
from vlmlake.store_schema.schema import STORED_DTYPES


@dataclass(frozen=True)
class Job:
    """What to run. model: folder or hub id; dataset: KIND:PATH; dtype: how activations are stored.

    batch_size: examples computed and committed together; answer_tokens: generate at most so many.
    """

    model: str
    dataset: str
    lake: str
    images: Path | None = None
    dtype: str = "float16"
    batch_size: int = 32
    answer_tokens: int = 16
    device: str = "cpu"
    storage_options: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if not self.model:
            raise VlmlakeError("the model is empty: expected a folder of save_pretrained or a hub id like org/name")
        if self.dtype not in STORED_DTYPES:
            raise VlmlakeError(f"dtype is {self.dtype}, expected one of {', '.join(STORED_DTYPES)}")
        for name in ("batch_size", "answer_tokens"):
            if getattr(self, name) < 1:
                raise VlmlakeError(f"{name.replace('_', ' ')} is {getattr(self, name)}, expected at least 1")
