"""The checks of the first batch are shown to bite: each test breaks the capture in one way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vlmlake import open_lake
from vlmlake.errors import VlmlakeError
from vlmlake.ingest import attention_rows, extract
from vlmlake.ingest.job import Job


@pytest.fixture
def job(tiny_llava, scenes, tmp_path) -> Job:
    return Job(str(tiny_llava), f"pope:{scenes}", str(tmp_path), answer_tokens=1)


def break_rows(monkeypatch, change):
    real = attention_rows.attention_rows
    monkeypatch.setattr(attention_rows, "attention_rows", lambda *arguments: change(real(*arguments)))


def break_pass(monkeypatch, change):
    real = extract.run_batch
    monkeypatch.setattr(extract, "run_batch", lambda *arguments: change(real(*arguments)))


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


def test_rows_with_nan(job, monkeypatch):
    break_rows(monkeypatch, lambda rows: rows * float("nan"))
    refused(job, "attention of block_0, head 0 does not sum to 1")


def test_a_residual_stream_that_is_not_the_models(job, monkeypatch):
    def shift_block_two(run):
        states = run.states.copy()
        states[:, 3] += np.float32(0.5)
        return replace(run, states=states)

    break_pass(monkeypatch, shift_block_two)
    refused(job, "layer 3 of the residual stream differs from an eager forward")
