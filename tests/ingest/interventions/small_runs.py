"""A few questions about drawn scenes of several sizes, extracted for the tests of masks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.ingest.jobs import job_of, run_job
from tests.ingest.pope_files import scene, write_pope
from vlmlake.ingest.decoding import Decoding
from vlmlake.store_schema.counted_storage import CountedStorage
from vlmlake.store_schema.run import Run

IMAGES = {"square.png": scene(0), "wide.png": scene(1, (100, 60)), "tall.png": scene(2, (44, 90))}
QUESTIONS = (
    ("square.png", "Is there a red circle in the image?"),
    ("square.png", "Circle?"),
    ("wide.png", "Look closely at every corner of the picture: is there an orange cross in the image?"),
    ("wide.png", "Circle?"),
    ("tall.png", "Is there a dog?"),
    ("wide.png", "Circle?"),
)
"""The last asks what another asks: they are one row of the store."""
EXAMPLES = tuple(f"tiny_pope/random/{number}" for number in range(1, len(QUESTIONS) + 1))


def small_run(model: Path, folder: Path, plan: str = "suffix", dtype: str = "float16", batch_size: int = 2) -> Run:
    spec = write_pope(folder, IMAGES, QUESTIONS)
    decoding = Decoding(answer_tokens=2)
    return run_job(job_of(model, spec, folder / "lake", plan, dtype, decoding=decoding, batch_size=batch_size))


def counted(run: Run) -> Run:
    """The same run, whose storage adds up the bytes that are read."""
    return replace(run, storage=CountedStorage.of(run.storage))
