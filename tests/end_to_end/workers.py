"""Passes in processes of their own, started from a server that has imported torch already: a start takes no seconds."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event

from vlmlake.ingest.job import Job

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["vlmlake.ingest.extract", "vlmlake.ingest.families", "s3fs"])


@dataclass(frozen=True)
class Pass:
    """A pass under way. committing: set once it has committed a batch."""

    process: BaseProcess
    committing: Event


def start(job: Job, environment: Mapping[str, str], clock: float = 0.0) -> Pass:
    """Begin a pass. environment: added to the child's; clock: seconds by which its clock is wrong."""
    committing = _context.Event()
    process = _context.Process(target=_work, args=(job, dict(environment), clock, committing))
    process.start()
    return Pass(process, committing)


def _work(job: Job, environment: dict[str, str], clock: float, committing: Event) -> None:
    import torch

    from vlmlake.ingest.extract import extract

    os.environ.update(environment)
    torch.set_num_threads(1)
    true_time = time.time
    time.time = lambda: true_time() + clock
    extract(job, report=lambda progress: progress.written and committing.set())
