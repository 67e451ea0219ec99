"""The plan's counts are those of the tokens that really go through the blocks."""

from __future__ import annotations

import shutil
from contextlib import contextmanager

import pytest

from tests.ingest.interventions.told import Drawn, Together
from tests.ingest.jobs import job_of, run_job
from vlmlake.ingest.interventions import intervention as interventions
from vlmlake.ingest.interventions.intervene import intervene, plan_intervention
from vlmlake.ingest.interventions.intervention import Settings
from vlmlake.ingest.interventions.requests.heads import HeadAblation
from vlmlake.ingest.replay_job import load_same_model


@pytest.fixture(
    scope="module",
    params=[("llava", True), ("llava", False), ("paligemma", True), ("qwen2_vl", True), ("qwen2_vl", False)],
    ids=lambda one: f"{one[0]}-{'shared' if one[1] else 'alone'}",
)
def original(request, checkpoints, tmp_path_factory):
    """Folder, and the run's name. Batches of several images, and some that are not full."""
    family, shared = request.param
    folder = tmp_path_factory.mktemp(family) / "lake"
    job = job_of(checkpoints[family], "shapes:3@3", folder, plan="readout", dtype="float16", batch_size=10)
    return folder, run_job(type(job)(**{**vars(job), "share_prefix": shared})).name


@pytest.fixture
def lake(original, tmp_path):
    shutil.copytree(original[0], tmp_path / "lake")
    return str(tmp_path / "lake"), original[1]


@contextmanager
def counted(monkeypatch):
    """Tokens, padding included, that go through each block of the model that is loaded."""
    counts: list[int] = []

    def load(*arguments):
        family = load_same_model(*arguments)
        for block in family.blocks:

            def count(module, arguments, output):
                stream = output[0] if isinstance(output, tuple) else output
                counts.append(stream.shape[0] * stream.shape[1])

            block.register_forward_hook(count)
        return family

    with monkeypatch.context() as patched:
        patched.setattr(interventions, "load_same_model", load)
        yield counts


@pytest.mark.parametrize("positions", ["all", "prompt_last"])
def test_evaluations_are_those_that_are_made(lake, monkeypatch, positions):
    """From the first block, later ones and none on; the model as it is goes along with some of them."""
    places = (("attn_out", "block_0"), ("head_out", "block_1"), ("mlp_out", "block_1"), ("resid", "block_3"))
    request = Together(tuple(Drawn(*place, positions, (0.0, 1.0, 2.0)) for place in places))
    told, settings = [], Settings(1, "suffix")
    planned = plan_intervention(*lake, request, settings=settings)
    with counted(monkeypatch) as counts:
        intervene(*lake, request, settings=settings, tell=told.append)
    groups = told[0].groups
    assert [group.block for group in groups] == [0, 1, 2, 4]
    assert [len(group.conditions) for group in groups] == [3, 3, 3, 4]
    assert sum(counts) == told[0].evaluations == planned.evaluations
    assert all(group.evaluations < group.plain for group in groups if group.block)
    with counted(monkeypatch) as counts:
        intervene(*lake, HeadAblation("block_2", positions=positions), settings=settings, tell=told.append)
    assert sum(counts) == told[1].evaluations > 0
    assert [group.block for group in told[1].groups] == [2]
