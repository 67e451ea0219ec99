"""A device that is too small for a stack of conditions, and edits that leave no numbers."""

from __future__ import annotations

import shutil

import pytest
import torch

from tests.ingest.interventions.told import Drawn, outcomes, require_same
from tests.ingest.jobs import job_of, run_job
from vlmlake import open_lake
from vlmlake.errors import VlmlakeError
from vlmlake.ingest.interventions import batch
from vlmlake.ingest.interventions.intervene import intervene
from vlmlake.ingest.interventions.intervention import Settings

REQUEST = Drawn("mlp_out", "block_2")
SUFFIX = Settings(route="suffix")


@pytest.fixture
def lake(checkpoints, tmp_path) -> tuple[str, str]:
    run = run_job(job_of(checkpoints["llava"], "shapes:2@3", tmp_path / "lake", batch_size=16))
    return str(tmp_path / "lake"), run.name


def too_small_for(conditions: int):
    answer = batch.answer

    def refuse(started, edits, positions, answer_tokens):
        if len(edits) > conditions:
            raise torch.OutOfMemoryError("no memory")
        return answer(started, edits, positions, answer_tokens)

    return refuse


def test_a_stack_that_does_not_fit_is_halved(lake, tmp_path, monkeypatch):
    shutil.copytree(lake[0], tmp_path / "roomy")
    intervene(str(tmp_path / "roomy"), lake[1], REQUEST, settings=SUFFIX)
    monkeypatch.setattr(batch, "answer", too_small_for(1))
    intervene(*lake, REQUEST, settings=SUFFIX)
    require_same(*(outcomes(url, lake[1]) for url in (lake[0], tmp_path / "roomy")))


def test_a_device_without_room_for_one_condition_is_named(lake, monkeypatch):
    monkeypatch.setattr(batch, "answer", too_small_for(0))
    with pytest.raises(VlmlakeError, match="cpu has no memory for 13 questions under one condition: extract with a sm"):
        intervene(*lake, REQUEST, settings=SUFFIX)


def test_logits_that_are_no_numbers_are_refused(lake):
    request = Drawn("resid", "block_2", strengths=(float("inf"),))
    with pytest.raises(VlmlakeError, match=r"under the condition ablate-\w+ \(given\) the model's logits hold NaN"):
        intervene(*lake, request, settings=SUFFIX)
    assert open_lake(lake[0]).table("outcomes").is_empty()
