"""The checks of the first batch are shown to bite: each test breaks the capture in one way."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vlmlake import open_lake
from vlmlake.demo import checkpoints
from vlmlake.errors import VlmlakeError
from vlmlake.ingest import attention_rows, extract
from vlmlake.ingest.decoding import Decoding
from vlmlake.ingest.job import Job
from vlmlake.ingest.model_source import ModelSource
from vlmlake.store_schema.capture_plan import read_plan


@pytest.fixture
def job(tiny_llava, scenes, tmp_path) -> Job:
    return Job(ModelSource(str(tiny_llava)), (f"pope:{scenes}",), str(tmp_path), decoding=Decoding(answer_tokens=1))


def break_rows(monkeypatch, change):
    real = attention_rows.attention_rows
    monkeypatch.setattr(attention_rows, "attention_rows", lambda *arguments: change(real(*arguments)))


def break_pass(monkeypatch, change):
    real = extract.run_batch
    monkeypatch.setattr(extract, "run_batch", lambda *arguments: change(real(*arguments)))


def shift(values, layer):
    """The layer's values half a unit off."""
    return {**values, layer: values[layer] + 0.5}


def refused(job: Job, message: str) -> None:
    with pytest.raises(VlmlakeError, match=message):
        extract.extract(job)
    lake = open_lake(job.lake)
    assert all(lake.run(name).batches_done == 0 for name in lake.runs)


def test_rows_that_do_not_sum_to_one(job, monkeypatch):
    def halve_head_two(rows):
        rows[:, 2] *= 0.5
        return rows

    break_rows(monkeypatch, halve_head_two)
    refused(job, "attention of block_0, head 2 does not sum to 1 in the first batch")


def test_rows_that_look_ahead(job, monkeypatch):
    break_rows(monkeypatch, lambda rows: rows.flip(-1) if rows.shape[2] > 1 else rows)
    refused(job, r"attention of block_\d, head \d is not 0 at masked keys")


def test_rows_of_another_temperature(job, monkeypatch):
    def sharpen(rows):
        sharper = rows**2
        return sharper / sharper.sum(-1, keepdim=True)

    break_rows(monkeypatch, sharpen)
    refused(job, r"attention of block_\d, head \d differs from an eager forward")


def test_rows_of_the_answer_alone_that_are_of_another_temperature(job, monkeypatch):
    def sharpen_steps(rows):
        sharper = rows**2
        return sharper / sharper.sum(-1, keepdim=True) if rows.shape[2] == 1 else rows

    break_rows(monkeypatch, sharpen_steps)
    refused(job, r"attention of block_\d, head \d differs from an eager forward")


def test_rows_with_nan(job, monkeypatch):
    break_rows(monkeypatch, lambda rows: rows * float("nan"))
    refused(job, "attention of block_0, head 0 does not sum to 1")


def test_rows_of_the_readout_plan_are_checked_too(job, monkeypatch):
    break_rows(monkeypatch, lambda rows: rows.roll(1, dims=1))
    refused(replace(job, plan=read_plan("readout")), r"attention of block_\d, head \d differs from an eager forward")


@pytest.mark.parametrize("share_prefix", [True, False], ids=["shared", "unshared"])
@pytest.mark.parametrize("part", ["suffix", "prefix"])
def test_a_residual_stream_that_is_not_the_models(job, monkeypatch, part, share_prefix):
    def shift_block_two(run):
        kept = getattr(run, part)
        return replace(run, **{part: replace(kept, states=shift(kept.states, 3))})

    break_pass(monkeypatch, shift_block_two)
    refused(replace(job, share_prefix=share_prefix), "layer 3 of the residual stream differs from an eager forward")


def test_an_answer_whose_residual_stream_is_not_the_models(job, monkeypatch):
    def shift_the_first_step(run):
        step, *rest = run.steps
        return replace(run, steps=(replace(step, states=shift(step.states, 2)), *rest))

    break_pass(monkeypatch, shift_the_first_step)
    refused(job, "layer 2 of the residual stream differs from an eager forward")


@pytest.mark.parametrize(("field", "said"), [("attn_write", "attention's write"), ("mlp_write", "MLP's write")])
def test_block_writes_that_are_not_the_models(job, monkeypatch, field, said):
    def shift_block_one(run):
        return replace(run, suffix=replace(run.suffix, **{field: shift(getattr(run.suffix, field), 2)}))

    break_pass(monkeypatch, shift_block_one)
    refused(job, f"block_1: the {said} differs from an eager forward")


def test_logits_that_are_not_the_models(job, monkeypatch):
    def shift_logits(run):
        return replace(run, suffix=replace(run.suffix, logits=run.suffix.logits + 0.5))

    break_pass(monkeypatch, shift_logits)
    refused(job, "logits differs from an eager forward")


@pytest.mark.parametrize("folder", checkpoints(), ids=lambda folder: folder.name)
def test_every_family_is_checked_against_its_own_masks_and_positions(job, monkeypatch, folder):
    """Rotary positions with a gap before the suffix: rows still sum to 1, only the model's own positions tell."""
    from vlmlake.ingest.families.base import Family, Prompt

    real = Family.prompt

    def stretched(self, *arguments) -> Prompt:
        prompt = real(self, *arguments)
        places = torch.arange(prompt.positions.shape[1]).numpy()
        return replace(prompt, positions=prompt.positions + (places >= prompt.split))

    monkeypatch.setattr(Family, "prompt", stretched)
    refused(replace(job, model=ModelSource(str(folder))), "differs from an eager forward")


@pytest.mark.parametrize("folder", checkpoints(), ids=lambda folder: folder.name)
@pytest.mark.parametrize("plan", ["full", "suffix", "readout"])
def test_what_is_right_passes_under_every_plan(job, folder, plan):
    changed = replace(job, model=ModelSource(str(folder)), plan=read_plan(plan, blank=True), batch_size=200)
    assert extract.extract(changed).computed > 0
