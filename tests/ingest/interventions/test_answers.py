"""Answers of several tokens from the edited state: those of the plain route, token by token, in every family."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.ingest.jobs import job_of
from vlmlake.ingest.families import load_family
from vlmlake.ingest.interventions.edited.decode import answer
from vlmlake.ingest.interventions.edited.edits import AFTER_BLOCK, SITES, Edit
from vlmlake.ingest.interventions.edited.full import rerun
from vlmlake.ingest.interventions.edited.suffix import start
from vlmlake.ingest.loader import load_ahead
from vlmlake.ingest.model_identity import model_identity
from vlmlake.ingest.work import plan_work, survey_job

BLOCKS, HIDDEN, LENGTH = 4, 64, 6


@pytest.fixture(scope="module", params=["llava", "paligemma", "qwen2_vl"])
def batch(request, checkpoints, tmp_path_factory):
    job = job_of(checkpoints[request.param], "shapes:2@1", tmp_path_factory.mktemp("lake"), batch_size=16)
    family, survey = load_family(job.model), survey_job(job)
    work = plan_work(job, family, survey.examples, survey.facts, model_identity(job.model, family.model))
    return family, next(iter(load_ahead(work, family, [0])))[1]


def conditions_from(block: int, questions: int, positions: str):
    """Those that make answers of other lengths: strong edits of all sites, and values of each question's own."""
    rng = np.random.default_rng(block)

    def edit(site, at, count, strength, rows=()):
        values = strength * rng.normal(size=(*rows, count))
        return Edit(site, at, rng.choice(HIDDEN, count, replace=False), values)

    places = [(site, at) for at in range(BLOCKS) for site in SITES if at + (site in AFTER_BLOCK) >= block]
    found = [[], *([edit(*place, 24, strength)] for place in places for strength in ((2, 60) if block else (60,)))]
    if positions == "prompt_last":
        found += [[edit(*place, 24, 4, rows=(questions,))] for place in places[:2]]
    return found


@pytest.mark.parametrize("positions", ["all", "prompt_last"])
@pytest.mark.parametrize("block", [0, 2, BLOCKS])
def test_answers_are_those_of_plain_reruns(batch, block, positions):
    family, asked = batch
    conditions = conditions_from(block, len(asked.prompts), positions)
    shared = block > 0 and not family.image_sees_question
    causal = not family.image_sees_question
    plain = [rerun(family, asked, one, positions, LENGTH, causal) for one in conditions]
    found = answer(start(family, asked, block, shared), conditions, positions, LENGTH)
    torch.testing.assert_close(found.logits, torch.stack([one.logits for one in plain]), atol=1e-4, rtol=0)
    assert found.ids == tuple(one.ids for one in plain)
    lengths = {len(ids) for condition in found.ids for ids in condition}
    assert 2 in lengths
    assert max(lengths) == LENGTH or block == BLOCKS
    assert len(set(found.ids)) > len(conditions) // 3
    roomy = start(family, asked, block, shared, room=LENGTH - 1)
    for part in (conditions, conditions[:1], conditions[1:]):
        again = answer(roomy, part, positions, LENGTH)
        assert again.ids == tuple(found.ids[conditions.index(one)] for one in part)
    once = answer(start(family, asked, block, shared), conditions, positions, 1)
    assert once.ids == tuple(tuple(ids[:1] for ids in condition) for condition in found.ids)


def test_an_mlps_write_is_edited_exactly_in_half_precision(checkpoints, tmp_path):
    """A write that is large beside the stream leaves nothing of it in their rounded sum."""
    job = job_of(checkpoints["llava"], "shapes:1@1", tmp_path, batch_size=16)
    family, survey = load_family(replace(job.model, dtype="bfloat16")), survey_job(job)
    work = plan_work(job, family, survey.examples, survey.facts, model_identity(job.model, family.model))
    asked = next(iter(load_ahead(work, family, [0])))[1]
    neuron, block = 5, 2
    with torch.no_grad():
        family.mlps[block].down_proj.weight[neuron] *= 300
    conditions = [[], [Edit("mlp_out", block, [neuron], [0.0])]]
    plain = torch.stack([rerun(family, asked, one, "all", 1, True).logits for one in conditions])
    found = start(family, asked, block + 1, shared=True).logits(conditions, "all")
    assert (plain[1] - plain[0]).abs().max() > 1
    assert (found - plain).abs().max() < 0.02
