"""Blocks entered with the stored residual streams: the logits of plain reruns, and no block before ever runs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.ingest.jobs import job_of, run_job
from vlmlake.ingest.families import load_family
from vlmlake.ingest.interventions.edited.edits import Edit
from vlmlake.ingest.interventions.edited.full import rerun
from vlmlake.ingest.interventions.edited.stored_start import keeps_streams, start_from_store
from vlmlake.ingest.loader import load_ahead
from vlmlake.ingest.model_identity import model_identity
from vlmlake.ingest.work import plan_work, survey_job

HIDDEN = 64


@pytest.mark.parametrize("model", ["llava", "paligemma", "qwen2_vl"])
def test_logits_are_those_of_plain_reruns(model, checkpoints, tmp_path):
    job = job_of(checkpoints[model], "shapes:3@1", tmp_path, plan="suffix", dtype="float32", batch_size=16)
    run = run_job(job)
    family, survey = load_family(job.model), survey_job(job)
    work = plan_work(job, family, survey.examples, survey.facts, model_identity(job.model, family.model))
    batch, asked = next(iter(load_ahead(work, family, [0])))
    askers = [work.examples[work.items[item].examples[0]].id for item in batch.examples]
    rng, ran = np.random.default_rng(0), []
    for number, block in enumerate(family.blocks):
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
    for block in (1, 3):
        assert keeps_streams(run, block)
        conditions = [[]] + [
            [Edit(site, at, rng.choice(HIDDEN, 20, replace=False), 4 * rng.normal(size=20))]
            for site, at in (("resid", block - 1), ("attn_out", block), ("mlp_out", block))
        ]
        for positions in ("all", "prompt_last"):
            plain = [rerun(family, asked, one, positions, 1, work.shared).logits for one in conditions]
            ran.clear()
            started = start_from_store(run, family, asked, askers, block, work.shared)
            found = started.logits(conditions, positions)
            assert min(ran) == block
            torch.testing.assert_close(found, torch.stack(plain), atol=1e-4, rtol=0)
            assert (found[1:] - found[0]).abs().amax() > 0.1
    assert not keeps_streams(run, 0)
