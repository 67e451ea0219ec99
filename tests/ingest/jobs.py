"""Jobs for the tests, and models that end their answers elsewhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlmlake import open_lake
from vlmlake.ingest.decoding import Decoding
from vlmlake.ingest.extract import extract
from vlmlake.ingest.job import Job
from vlmlake.ingest.model_source import ModelSource
from vlmlake.store_schema.capture_plan import read_plan
from vlmlake.store_schema.run import Run


def job_of(
    model: Path,
    data: str | tuple[str, ...],
    lake: Path,
    plan: str = "suffix",
    dtype: str = "float32",
    blank: bool = False,
    decoding: Decoding = Decoding(answer_tokens=3),  # noqa: B008 - it is frozen
    **more: Any,
) -> Job:
    """A job in float32 and with short answers, unless said otherwise."""
    return Job(
        model=ModelSource(str(model)),
        datasets=(data,) if isinstance(data, str) else data,
        lake=str(lake),
        plan=read_plan(plan, dtype, blank),
        decoding=decoding,
        **more,
    )


def run_job(job: Job) -> Run:
    """Do the job; the run that it left."""
    outcome = extract(job)
    return open_lake(job.lake).run(outcome.run)


def ending_at(model: Path, folder: Path, ids: Sequence[int]) -> Path:
    """A copy of a model whose answers end at any of these tokens."""
    shutil.copytree(model, folder)
    file = folder / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "eos_token_id": list(ids)}))
    return folder


def never_ending(model: Path, folder: Path) -> Path:
    """A copy of a model that answers as long as it may: what would end its answers is padding, which it never says."""
    return ending_at(model, folder, [json.loads((model / "generation_config.json").read_text())["pad_token_id"]])
