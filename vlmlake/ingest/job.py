"""What a pass is asked to do, checked before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vlmlake.errors import VlmlakeError, without_credentials
from vlmlake.ingest.decoding import Decoding
from vlmlake.ingest.model_source import ModelSource
from vlmlake.store_schema.capture_plan import CapturePlan, read_plan
from vlmlake.store_schema.workers import Worker


@dataclass(frozen=True, repr=False)
class Job:
    """What to run, on what, and what to keep.

    datasets: specs as KIND:WHAT, all in one run; images: the folder that their paths are relative to; columns: what a
    table's columns are called. plan: what to keep. batch_size: questions computed and committed together. share_prefix:
    compute what lies before the question once per image, where the family is causal. skip_bad: leave out examples whose
    image is broken, and say so in the table `skipped`. worker: which of how many share the run's batches.
    storage_options: for the file system of the lake, and of data at URLs of the same protocol.
    """

    model: ModelSource
    datasets: tuple[str, ...]
    lake: str
    images: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    plan: CapturePlan = field(default_factory=lambda: read_plan("suffix"))
    decoding: Decoding = field(default_factory=Decoding)
    batch_size: int = 32
    share_prefix: bool = True
    skip_bad: bool = False
    worker: Worker = field(default_factory=Worker)
    storage_options: Mapping[str, Any] | None = None

    def __repr__(self) -> str:
        """Without what credentials the job was given."""
        return without_credentials(
            f"Job({self.model!r}, datasets={self.datasets!r}, lake={self.lake!r}, {self.plan!r})"
        )

    def __post_init__(self) -> None:
        if not self.datasets:
            raise VlmlakeError("no dataset is named: expected at least one like pope:coco/coco_pope_random.json")
        if self.batch_size < 1:
            raise VlmlakeError(f"batch size is {self.batch_size}, expected at least 1")
