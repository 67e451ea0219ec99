"""Ways to put questions to a model; each returns the seconds that it took.

No way counts loading the model. The two plain ways get their prompts tokenized and their images processed beforehand,
which spares them what ours does while it computes.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from vlmlake.ingest import extract as extraction
from vlmlake.ingest.attention_rows import IMPLEMENTATIONS
from vlmlake.ingest.columns import Columns
from vlmlake.ingest.datasets import open_image
from vlmlake.ingest.decoding import Decoding
from vlmlake.ingest.families import Family, ImageInputs, Prompt
from vlmlake.ingest.generation import run_batch
from vlmlake.ingest.job import Job
from vlmlake.ingest.loader import load_ahead
from vlmlake.ingest.work import Work


@dataclass(frozen=True)
class Asked:
    """One question, ready for a model."""

    prompt: Prompt
    image: ImageInputs


def prepare(family: Family, work: Work, count: int) -> list[Asked]:
    """The first `count` questions, those of like length together, so that plain batches pad little."""
    images: dict[str, ImageInputs] = {}
    asked = []
    for item in work.items[:count]:
        if item.image_sha256 not in images:
            images[item.image_sha256] = family.image_inputs(open_image(item.source))
        asked.append(Asked(item.prompt(family), images[item.image_sha256]))
    return sorted(asked, key=lambda one: len(one.prompt.ids))


@torch.inference_mode()
def eager_loop(family: Family, asked: Sequence[Asked], folder: Path) -> float:
    """One question at a time with eager attention; attentions, hidden states and logits go to one file each."""
    folder.mkdir()
    with _attention(family, "eager"):
        began = time.perf_counter()
        for number, one in enumerate(asked):
            out = family.model(
                **_inputs(family, [one]), use_cache=False, output_attentions=True, output_hidden_states=True
            )
            assert len(out.attentions) == len(family.blocks)
            kept = {
                "attentions": [rows.cpu() for rows in out.attentions],
                "hidden_states": [states.cpu() for states in out.hidden_states],
                "logits": out.logits.cpu(),
            }
            torch.save(kept, folder / f"{number}.pt")
        seconds = time.perf_counter() - began
    remove(folder)
    return seconds


@torch.inference_mode()
def plain_batches(family: Family, asked: Sequence[Asked], size: int) -> float:
    """Batches with SDPA, every question with its image; nothing is kept but the likeliest next token."""
    with _attention(family, "sdpa"):
        began = time.perf_counter()
        for start in range(0, len(asked), size):
            inputs = _inputs(family, asked[start : start + size])
            family.model(**inputs, use_cache=False, logits_to_keep=1).logits[:, -1].argmax(-1).cpu()
        return time.perf_counter() - began


@dataclass(frozen=True)
class Extracted:
    """seconds: from the start of computing to the last commit, without `check`, the seconds of the first batch's check
    against an eager forward, which a run of any length pays once. waited: for the writer; written: bytes.
    """

    seconds: float
    check: float
    waited: float
    written: int


def extract(job: Job, family: Family, check: bool = True) -> Extracted:
    """The pass itself, into a new lake that is removed afterwards. check: of the first batch, as real passes do."""
    with _timing_check(check) as seconds:
        outcome = extraction.extract(job, family=family)
    remove(Path(job.lake))
    return Extracted(outcome.seconds - seconds[0], seconds[0], outcome.waited, outcome.written)


def extract_nothing(work: Work, family: Family, decoding: Decoding) -> float:
    """The same batches through the same engine, read ahead in the same way; nothing is kept, nothing written."""
    nothing = replace(work, wanted=replace(work.wanted, arrays=frozenset(), layers=()))
    began = time.perf_counter()
    for _, asked in load_ahead(nothing, family, range(len(nothing.batches))):
        run_batch(family, nothing.wanted, asked, decoding, nothing.shared)
    return time.perf_counter() - began


@contextmanager
def _timing_check(wanted: bool) -> Iterator[list[float]]:
    """A list of one number, the seconds that the check of the first batch has taken."""
    seconds, check = [0.0], extraction.check_first_batch

    def timed(*arguments: Any) -> None:
        began = time.perf_counter()
        if wanted:
            check(*arguments)
        seconds[0] += time.perf_counter() - began

    extraction.check_first_batch = timed
    try:
        yield seconds
    finally:
        extraction.check_first_batch = check


def _inputs(family: Family, asked: Sequence[Asked]) -> dict[str, torch.Tensor]:
    """What the model takes for one batch, padded on the left, on its device."""
    prompts = [one.prompt for one in asked]
    columns, pad = Columns.of(prompts), family.tokenizer.pad_token_id or 0
    padded = columns.prefixes(prompts, pad).beside(columns.suffixes(prompts, pad))
    positions = padded.positions[0] if len(padded.positions) == 1 else padded.positions
    ids, seen, places = (torch.from_numpy(values).to(family.device) for values in (padded.ids, padded.seen, positions))
    return {
        "input_ids": ids,
        "attention_mask": seen,
        "position_ids": places,
        **family.stack_images([one.image for one in asked]),
        **family.sequence_arguments(ids),
    }


@contextmanager
def _attention(family: Family, implementation: str) -> Iterator[None]:
    """transformers' own attention in the decoder in place of ours."""
    family.model.set_attn_implementation({"text_config": implementation})
    try:
        yield
    finally:
        family.model.set_attn_implementation({"text_config": IMPLEMENTATIONS["sdpa"]})


def remove(folder: Path) -> None:
    """Outside the measured time, with all that waits for the disk, so that no way pays for the one before it."""
    shutil.rmtree(folder)
    os.sync()
