"""Every route gives the same answers and numbers, in every family and for every kind of request."""

from __future__ import annotations

import shutil
from pathlib import Path

import polars as pl
import pytest
from transformers import AutoTokenizer

from tests.ingest.interventions.told import Drawn, Together, Towards, outcomes, require_same
from tests.ingest.jobs import job_of, never_ending, run_job
from vlmlake import open_lake
from vlmlake.ingest.decoding import Decoding
from vlmlake.ingest.interventions.edited.edits import SITES
from vlmlake.ingest.interventions.intervene import intervene
from vlmlake.ingest.interventions.intervention import Settings
from vlmlake.ingest.interventions.requests.ablation import Ablation
from vlmlake.ingest.interventions.requests.bypass import Bypass
from vlmlake.ingest.interventions.requests.heads import HeadAblation
from vlmlake.ingest.interventions.requests.patching import Patching

LAST = "block_3"
ALGEBRA, SUFFIX, FULL, AUTO = "algebra", "suffix", "full", "auto"
HALF = tuple(range(0, 64, 2))


@pytest.fixture(scope="module", params=["llava", "paligemma", "qwen2_vl"])
def lake(request, checkpoints, tmp_path_factory):
    """Folder, and the run's name; several examples ask the same question of the same image."""
    folder = tmp_path_factory.mktemp(request.param) / "lake"
    run = run_job(job_of(checkpoints[request.param], "shapes:3@3", folder, batch_size=10))
    assert run.examples()["row"].is_duplicated().any()
    return folder, run.name


def two_images(lake) -> list[str]:
    """Ids of the examples about two of the three images."""
    rows = open_lake(str(lake[0])).run(lake[1]).examples()
    images = rows["image_sha256"].unique(maintain_order=True)[:2].to_list()
    return rows.filter(pl.col("image_sha256").is_in(images))["example"].to_list()


def by_route(lake, folder: Path, request, routes, answer_tokens: int = 5, examples=None) -> dict[str, pl.DataFrame]:
    """Outcomes by route, each made in a lake of its own."""
    made = {}
    for route in routes:
        copy = folder / route
        shutil.copytree(lake[0], copy)
        came = intervene(str(copy), lake[1], request, examples, Settings(answer_tokens, route))
        assert came.missing == 0
        made[route] = outcomes(copy, lake[1])
        assert came.computed == made[route].height
    return made


@pytest.mark.parametrize("positions", ["all", "prompt_last"])
def test_edits_after_the_last_block_on_all_routes(lake, tmp_path, positions):
    request = Together((Drawn("resid", LAST, positions), Drawn("mlp_out", LAST, positions)))
    made = by_route(lake, tmp_path, request, (AUTO, ALGEBRA, SUFFIX, FULL))
    assert ALGEBRA in made[AUTO]["route"]
    assert ALGEBRA in made[ALGEBRA]["route"]
    assert set(made[SUFFIX]["route"]) == {SUFFIX}
    assert set(made[FULL]["route"]) == {FULL}
    assert made[FULL]["answer"].n_unique() > 2
    assert positions != "all" or made[FULL]["answer_tokens"].max() > 1
    for route in (AUTO, ALGEBRA, SUFFIX):
        require_same(made[route], made[FULL])


@pytest.mark.parametrize("positions", ["all", "prompt_last"])
def test_every_kind_of_request_on_the_cheapest_route_and_the_plain_one(lake, tmp_path, positions):
    """Zero and mean, in every half of a block, with what the store tells and with what it does not."""
    request = Together(
        (
            *(Drawn(site, f"block_{block}", positions, (2.0, 60.0)) for block, site in enumerate(SITES)),
            *(Ablation(site=site, layer="block_2", neurons=HALF, controls=1, positions=positions) for site in SITES),
            Ablation(layer=LAST, neurons=HALF, controls=1, mode="zero", positions=positions),
            HeadAblation("block_0", (0,), positions=positions),
            HeadAblation(LAST, (1,), "mean", positions),
            Bypass(layers=("block_1",), positions=positions),
        )
    )
    made = by_route(lake, tmp_path, request, (AUTO, FULL), examples=two_images(lake))
    assert {ALGEBRA, SUFFIX} <= set(made[AUTO]["route"])
    assert made[FULL]["answer"].n_unique() > 3
    assert positions != "all" or made[FULL]["answer_tokens"].max() > 2
    require_same(made[AUTO], made[FULL])


def test_first_tokens_alone(lake, tmp_path):
    """No token after the first is asked for: the store tells them all that it has the text of."""
    made = by_route(lake, tmp_path, Drawn("resid", LAST), (ALGEBRA, SUFFIX, FULL), answer_tokens=1)
    assert set(made[FULL]["token_ids"].list.len()) == {1}
    assert ALGEBRA in made[ALGEBRA]["route"]
    require_same(made[ALGEBRA], made[FULL])
    require_same(made[SUFFIX], made[FULL])


def test_patches(lake, tmp_path):
    sites = (("resid", LAST), ("attn_out", "block_0"), ("mlp_out", "block_2"))
    request = Together(tuple(Patching(site, (layer,), "exact") for site, layer in sites))
    made = by_route(lake, tmp_path, request, (AUTO, FULL))
    assert {ALGEBRA, SUFFIX} <= set(made[AUTO]["route"])
    require_same(made[AUTO], made[FULL])


@pytest.mark.parametrize("positions", ["all", "prompt_last"])
def test_answers_that_never_end_are_no_longer_than_the_store_tells(checkpoints, tmp_path, positions):
    """The stored answers are cut off; what would follow is not in the store."""
    model = never_ending(checkpoints["llava"], tmp_path / "model")
    run = run_job(job_of(model, "shapes:1@1", tmp_path / "lake", batch_size=6))
    assert set(run.examples()["finish"]) == {"length"}
    (tmp_path / "copies").mkdir()
    for answer_tokens in (2, 6):
        place = tmp_path / "copies" / str(answer_tokens)
        place.mkdir()
        request = Drawn("resid", LAST, positions, (0.0, 0.05, 60.0), count=4)
        made = by_route((tmp_path / "lake", run.name), place, request, (ALGEBRA, FULL), answer_tokens)
        require_same(made[ALGEBRA], made[FULL])


def test_ends_and_special_tokens_that_no_stored_answer_has(checkpoints, tmp_path):
    """Stored answers of one token do not show what ends them, and a vocabulary has texts that answers leave out."""
    model = checkpoints["llava"]
    tokenizer = AutoTokenizer.from_pretrained(model)
    run = run_job(job_of(model, "shapes:1@1", tmp_path / "lake", batch_size=6, decoding=Decoding(answer_tokens=1)))
    for token in (tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<image>"), 200):
        place = tmp_path / str(token)
        place.mkdir()
        made = by_route((tmp_path / "lake", run.name), place, Towards(token), (ALGEBRA, FULL), 1)
        assert [token] in made[FULL]["token_ids"].to_list()
        require_same(made[ALGEBRA], made[FULL])
