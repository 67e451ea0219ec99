"""The numbers, answers and labels of outcomes, against plain forwards by transformers and the stored answers."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from torch import nn

from tests.ingest.interventions.told import NUMBERS, Towards, outcomes
from tests.ingest.jobs import job_of, run_job
from tests.ingest.plain import PlainModel
from vlmlake import open_lake
from vlmlake.ingest.datasets import load_dataset
from vlmlake.ingest.interventions.intervene import intervene
from vlmlake.ingest.interventions.intervention import Settings
from vlmlake.ingest.interventions.requests.bypass import Bypass
from vlmlake.ingest.interventions.requests.conditions import unchanged
from vlmlake.ingest.interventions.requests.heads import HeadAblation
from vlmlake.ingest.interventions.requests.patching import Patching

DATA, TOKENS = "shapes:3@3", 3
BLOCK, LAST = 1, "block_3"


@pytest.fixture(scope="module", params=["llava", "paligemma", "qwen2_vl"])
def lake(request, checkpoints, tmp_path_factory):
    """URL, and the run's name."""
    folder = tmp_path_factory.mktemp(request.param) / "lake"
    return str(folder), run_job(job_of(checkpoints[request.param], DATA, folder, batch_size=10)).name


@pytest.fixture(scope="module")
def plain(lake) -> PlainModel:
    return PlainModel(open_lake(lake[0]).run(lake[1]).record.versions["model"])


@pytest.fixture(scope="module")
def asked():
    """Every question once: its example, image and text."""
    once = {(one.source.name, one.question): one for one in reversed(load_dataset((DATA,)))}
    return [(one, Image.open(BytesIO(one.source.read())).convert("RGB")) for one in once.values()]


def silenced(module: nn.Module):
    """It writes zeros until the hook is removed."""

    def zeros(module, arguments, output):
        if isinstance(output, tuple):
            return (torch.zeros_like(output[0]), *output[1:])
        return torch.zeros_like(output)

    return module.register_forward_hook(zeros)


def as_told(plain: PlainModel, image, question: str, gold: str) -> dict[str, object]:
    """Columns of an outcome, as a user would find them."""
    logits = plain.next_logits(image, question).double()
    texts = plain.tokenizer.batch_decode([[one] for one in range(len(plain.tokenizer))])
    spelled = {
        word: [one for one, text in enumerate(texts) if text.strip().lower() == word] for word in ("yes", "no", gold)
    }
    others = logits.clone()
    others[spelled[gold]] = -torch.inf
    best = logits.topk(2).values
    ids = plain.generate(image, question, TOKENS)
    stopped = ids[-1] in plain.ends
    answer = plain.tokenizer.decode(ids, skip_special_tokens=True)
    bare = answer.strip().lower()
    yes_or_no = {"yes", "no"} & set(bare.split())
    says = yes_or_no.pop() if len(yes_or_no) == 1 else None
    return {
        "answer": answer,
        "token_ids": ids,
        "answer_tokens": len(ids) - stopped,
        "finish": "stop" if stopped else "length",
        "first_log_prob": logits.log_softmax(-1).max().item(),
        "first_gap": (best[0] - best[1]).item(),
        "first_logit": best[0].item(),
        "gold_logit": logits[spelled[gold]].max().item(),
        "margin": (logits[spelled[gold]].max() - others.max()).item(),
        "yes_minus_no": (logits[spelled["yes"]].max() - logits[spelled["no"]].max()).item(),
        "labels": {
            "exact": "right" if bare == gold else "wrong",
            "pope_official": "right" if ("no" if {"no", "No"} & set(answer.split(" ")) else "yes") == gold else "wrong",
            "yes_xor_no": "unparsed" if says is None else "right" if says == gold else "wrong",
        },
    }


def require_told(row: dict[str, object], wanted: dict[str, object]) -> None:
    for name, value in wanted.items():
        if name == "labels":
            assert {one["rule"]: one["label"] for one in row["labels"]} == value
        elif name in NUMBERS:
            assert row[name] == pytest.approx(value, abs=1e-4)
        else:
            assert row[name] == value, name


def test_a_bypass_is_a_model_without_the_block_or_half(lake, plain, asked):
    """Also the model as it is; every number, answer and label."""
    intervene(*lake, Bypass(layers=(f"block_{BLOCK}",)))
    made = outcomes(*lake)
    sets = dict(open_lake(lake[0]).table("interventions").select("set", "condition").iter_rows())
    layers = plain.model.model.language_model.layers
    plain.model.generation_config.use_cache = False
    block, seen = layers[BLOCK], []
    for name in ("none", "attention", "mlp", "block"):
        rows = {row["example"]: row for row in made.filter(condition=sets[name]).iter_rows(named=True)}
        hooks = []
        if name == "block":
            plain.model.model.language_model.layers = nn.ModuleList([one for one in layers if one is not block])
        elif name != "none":
            hooks = [silenced({"attention": block.self_attn, "mlp": block.mlp}[name])]
        try:
            for example, image in asked[:: 1 if name == "none" else 3]:
                require_told(rows[example.id], as_told(plain, image, example.question, example.gold))
                seen.append(rows[example.id]["margin"])
        finally:
            plain.model.model.language_model.layers = layers
            for hook in hooks:
                hook.remove()
    assert len(set(seen)) == len(seen)


def test_without_a_change_the_stored_answers_come_back(lake):
    came = intervene(*lake, Bypass(("mlp",), ("block_0",)))
    stored = open_lake(lake[0]).run(lake[1]).examples()
    assert (came.differing, came.compared) == (0, stored.height)
    rows = outcomes(*lake).filter(condition=unchanged(TOKENS).id).join(stored, on="example", suffix="_stored")
    assert rows.height == stored.height
    for name in ("answer", "answer_tokens", "token_ids", "finish"):
        assert rows[name].to_list() == rows[f"{name}_stored"].to_list()
    for name in ("first_log_prob", "first_gap"):
        np.testing.assert_allclose(rows[name], rows[f"{name}_stored"], atol=1e-4)


def test_all_heads_of_a_block_are_its_attention(lake, plain, asked, tmp_path):
    """One head after another, and all at once, against what the projection is given."""
    run = open_lake(lake[0]).run(lake[1])
    intervene(*lake, HeadAblation(f"block_{BLOCK}", positions="prompt_last"), settings=Settings(1))
    table = open_lake(lake[0]).table("interventions").filter(kind="heads", positions="prompt_last")
    assert table["head"].to_list() == list(range(run.record.extents.heads))
    projection = plain.model.model.language_model.layers[BLOCK].self_attn.o_proj
    width = projection.in_features // run.record.extents.heads
    made = outcomes(*lake)
    for head, condition in table.select("head", "condition").iter_rows():
        rows = {row["example"]: row for row in made.filter(condition=condition).iter_rows(named=True)}

        def blank(module, arguments, head=head):
            heads = arguments[0].clone()
            heads[:, -1, head * width : (head + 1) * width] = 0
            return (heads,)

        hook = projection.register_forward_pre_hook(blank)
        example, image = asked[head]
        logits = plain.next_logits(image, example.question)
        hook.remove()
        assert rows[example.id]["first_logit"] == pytest.approx(logits.max().item(), abs=1e-4)
        assert abs(rows[example.id]["first_logit"] - plain.next_logits(image, example.question).max()) > 1e-3


def test_labels_of_an_answer_that_is_neither_yes_nor_no(lake):
    run = open_lake(lake[0]).run(lake[1])
    token = next(number for number, text in enumerate(run.vocabulary) if text.strip("▁ Ġ") == "square")
    intervene(*lake, Towards(token), settings=Settings(1))
    rows = outcomes(*lake).filter(pl.col("answer").str.strip_chars() == "square").join(run.examples(), on="example")
    assert rows.height == run.examples().height
    for labels, gold in rows.select("labels", "gold").iter_rows():
        told = {one["rule"]: one["label"] for one in labels}
        says_yes = "right" if gold == "yes" else "wrong"
        assert told == {"pope_official": says_yes, "exact": "wrong", "yes_xor_no": "unparsed"}


def bare(answers: pl.Series) -> pl.Series:
    return answers.str.strip_chars().str.to_lowercase()


def patched(lake, request) -> pl.DataFrame:
    """Outcomes of both ways, with the donor's own answer and what the model says unchanged."""
    intervene(*lake, request, settings=Settings(1))
    table = open_lake(lake[0]).table("interventions").filter(kind="patch", answer_tokens=1, site=request.site)
    pairs = table.explode("pairs").unnest("pairs").select("condition", "layer", "set", "example", "donor")
    made = outcomes(*lake)
    as_is = made.filter(condition=unchanged(1).id)
    rows = made.join(pairs, on=["condition", "example"])
    assert rows.height == pairs.height
    donors = as_is.select("example", "answer", "first_log_prob", "first_logit")
    rows = rows.join(donors, left_on="donor", right_on="example", suffix="_donor")
    return rows.join(as_is.select("example", "answer", "first_logit"), on="example", suffix="_own")


def test_pairs_are_a_right_and_a_wrong_answer_about_one_image(lake):
    run = open_lake(lake[0]).run(lake[1])
    rows = patched(lake, Patching(layers=(LAST,), rule="exact"))
    told = run.examples().select("example", "image_sha256", "question", "gold", said="answer")
    for name in ("example", "donor"):
        renamed = {one: f"{one}_{name}" for one in told.columns if one != "example"}
        rows = rows.join(told.rename(renamed), left_on=name, right_on="example")
    assert rows.height >= 4
    right, donor_right = (rows[f"gold_{one}"] == bare(rows[f"said_{one}"]) for one in ("example", "donor"))
    assert (right == (rows["set"] == "into_right")).all()
    assert (donor_right == (rows["set"] == "into_wrong")).all()
    assert (rows["image_sha256_example"] == rows["image_sha256_donor"]).all()
    assert rows.select("set", "question_example", "image_sha256_example").is_unique().all()


def test_a_patch_after_the_last_block_says_what_the_donor_says(lake):
    rows = patched(lake, Patching(layers=(LAST,), rule="exact"))
    assert (rows["answer"] == rows["answer_donor"]).all()
    assert (rows["answer"] != rows["answer_own"]).all()
    np.testing.assert_allclose(rows["first_logit"], rows["first_logit_donor"], atol=1e-4)


def test_a_patch_is_the_donors_state_at_its_last_token(lake, plain, asked):
    """By hand: the other question's state at its own last token, put in place of this one's."""
    rows = patched(lake, Patching(layers=("block_0", "block_2"), rule="exact"))
    by_id = {one.id: (one, image) for one, image in asked}
    layers = plain.model.model.language_model.layers
    checked = 0
    for row in rows.iter_rows(named=True):
        if row["example"] not in by_id or row["donor"] not in by_id:
            continue
        (own, image), (donor, its) = by_id[row["example"]], by_id[row["donor"]]
        block = int(row["layer"].rpartition("_")[2])
        found = plain(its, donor.question)
        state = torch.from_numpy(found.states[block + 1, found.asked - 1])

        def put(module, arguments, output, state=state):
            stream = (output[0] if isinstance(output, tuple) else output).clone()
            stream[:, -1] = state
            return (stream, *output[1:]) if isinstance(output, tuple) else stream

        hook = layers[block].register_forward_hook(put)
        logits = plain.next_logits(image, own.question)
        hook.remove()
        assert row["first_logit"] == pytest.approx(logits.max().item(), abs=1e-4)
        checked += 1
    assert checked >= 4
