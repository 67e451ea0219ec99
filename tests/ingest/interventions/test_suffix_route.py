"""Blocks run again from one call of a block: the logits are those of whole forwards with the same edits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from tests.ingest.jobs import job_of
from vlmlake.errors import VlmlakeError
from vlmlake.ingest.arguments import prompt_arguments
from vlmlake.ingest.columns import Columns
from vlmlake.ingest.families import load_family
from vlmlake.ingest.families.base import Family
from vlmlake.ingest.generation import Questions
from vlmlake.ingest.interventions.edited.calls import BlockCall
from vlmlake.ingest.interventions.edited.edits import AFTER_BLOCK, SITES, Edit, Rows, Scope, edited, overlays
from vlmlake.ingest.interventions.edited.suffix import start
from vlmlake.ingest.loader import load_ahead
from vlmlake.ingest.model_identity import model_identity
from vlmlake.ingest.work import plan_work, survey_job

BLOCKS, HIDDEN = 4, 64


@dataclass(frozen=True)
class Batch:
    """Questions of several images, their whole prompts as one forward takes them, and which columns hold tokens."""

    family: Family
    asked: Questions
    arguments: dict[str, Any]
    seen: torch.Tensor

    def plain(self, condition, positions) -> torch.Tensor:
        """[questions, vocab], of a whole forward with the edits."""
        where = self.seen.clone()
        if positions == "prompt_last":
            where[:, :-1] = False
        changes, scope = overlays(self.family, [condition]), Scope(Rows.stacked(1, len(where), where.device), where)
        with torch.inference_mode(), edited(self.family, changes, lambda: scope):
            return self.family.model(**self.arguments, use_cache=False, logits_to_keep=1).logits[:, -1].float()


@pytest.fixture(scope="module", params=["llava", "paligemma", "qwen2_vl"])
def batch(request, checkpoints, tmp_path_factory) -> Batch:
    job = job_of(checkpoints[request.param], "shapes:4@1", tmp_path_factory.mktemp("lake"), batch_size=16)
    family, survey = load_family(job.model), survey_job(job)
    work = plan_work(job, family, survey.examples, survey.facts, model_identity(job.model, family.model))
    _, asked = next(iter(load_ahead(work, family, [0])))
    columns, pad = Columns.of(asked.prompts), family.tokenizer.pad_token_id or 0
    whole = columns.prefixes(asked.prompts, pad).beside(columns.suffixes(asked.prompts, pad))
    images = [asked.images[prefix] for prefix in asked.prefix_of]
    return Batch(family, asked, prompt_arguments(family, whole, images), torch.from_numpy(whole.seen).bool())


def conditions_from(block: int, seed: int = 0):
    """None; one, and half of the neurons at every site that changes this block or later ones; several at once."""
    rng = np.random.default_rng(seed)

    def edit(site, at, count):
        return Edit(site, at, rng.choice(HIDDEN, count, replace=False), 2 * rng.normal(size=count))

    places = [(site, at) for at in range(BLOCKS) for site in SITES if at + (site in AFTER_BLOCK) >= block]
    single = [[edit(*place, count)] for place in places for count in (1, HIDDEN // 2)]
    last = BLOCKS - 1
    return [
        [],
        *single,
        [edit("mlp_out", last, 5), edit("resid", last, 5)],
        [edit(*places[0], 3), edit("resid", last, 3)],
    ]


@pytest.mark.parametrize("positions", ["all", "prompt_last"])
@pytest.mark.parametrize("block", [0, 2, BLOCKS - 1, BLOCKS])
def test_logits_are_those_of_whole_forwards(batch, block, positions):
    conditions = conditions_from(block)
    wanted = torch.stack([batch.plain(condition, positions) for condition in conditions])
    moved = (wanted[1:] - wanted[0]).abs().amax(dim=(1, 2))
    assert moved.min() > 1e-4
    for shared in {False, block > 0 and not batch.family.image_sees_question}:
        started = start(batch.family, batch.asked, block, shared)
        assert (started.prefix is not None) == shared
        found = started.logits(conditions, positions)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)
        alone = torch.cat([started.logits([condition], positions) for condition in conditions[:3]])
        torch.testing.assert_close(alone, wanted[:3], atol=1e-4, rtol=0)


def test_nothing_stays_behind_on_the_model(batch):
    before = batch.plain([], "all")
    start(batch.family, batch.asked, 1, shared=False).logits(conditions_from(1), "all")
    assert torch.equal(batch.plain([], "all"), before)


def test_what_a_model_does_not_have_is_refused(batch):
    started = start(batch.family, batch.asked, 2, shared=False)
    for edit, told in (
        (Edit("attn_out", 1, (0,), (0.0,)), "an edit of attn_out of block 1 cannot start from block 2"),
        (Edit("resid", BLOCKS, (0,), (0.0,)), "the model has blocks 0 to 3, got 4"),
        (Edit("mlp_out", 2, (HIDDEN,), (0.0,)), "neurons of mlp_out are 0 to 63, got 64"),
        (Edit("mlp_out", 2, (-1,), (0.0,)), "neurons of mlp_out are 0 to 63, got -1"),
    ):
        with pytest.raises(VlmlakeError, match=told):
            started.logits([[edit]], "all")
    for block, shared in ((0, True), (2, batch.family.image_sees_question)):
        if shared:
            with pytest.raises(VlmlakeError, match=f"can be shared from block {block} on"):
                start(batch.family, batch.asked, block, shared=True)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("q_proj", 0, (0,), (0.0,)), "the site is q_proj, expected one of resid, mlp_out, attn_out"),
        (("resid", 0, (0, 1), (0.0,)), "2 neurons, 1 values"),
        (("resid", 0, (1, 1), (0.0, 0.0)), "expected one for each, once"),
    ],
)
def test_an_edit_that_means_nothing_is_refused(given, told):
    with pytest.raises(VlmlakeError, match=told):
        Edit(*given)


def test_a_keyword_whose_rows_nobody_knows_is_refused():
    with pytest.raises(VlmlakeError, match="a block takes gate, which is not known: expected attention_mask"):
        BlockCall(torch.zeros(2, 3, 4), {"gate": torch.zeros(2)})


def test_as_many_rows_as_position_axes_are_told_apart():
    """Three rows of three position axes: the rows are the axis before the columns."""
    places = torch.arange(3 * 3 * 5).view(3, 3, 5)
    rows = torch.arange(3).repeat(2)
    again = BlockCall(torch.zeros(3, 5, 4), {"position_ids": places}).chosen(rows).keywords["position_ids"]
    assert torch.equal(again, torch.cat([places, places], dim=1))


def test_a_mask_over_keys_alone_is_cut_at_the_keys():
    """As flash attention takes it: [rows, keys], of a prefix of 13 tokens and 7 more."""
    mask = torch.arange(3 * 20).view(3, 20)
    call = BlockCall(torch.zeros(3, 7, 4), {"attention_mask": mask})
    assert torch.equal(call.columns(6, 7).keywords["attention_mask"], mask)
    assert torch.equal(call.columns(0, 6).keywords["attention_mask"], mask[:, :19])
    assert torch.equal(call.chosen(torch.tensor([2, 0])).keywords["attention_mask"], mask[[2, 0]])
