"""What cannot be done is one line that names it, and changes nothing that is there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.ingest.interventions.small_runs import EXAMPLES, IMAGES, QUESTIONS, small_run
from tests.ingest.jobs import job_of, run_job
from tests.ingest.pope_files import scene, write_pope
from tests.servers.files import FileServer
from vlmlake import open_lake
from vlmlake.errors import VlmlakeError
from vlmlake.ingest.interventions.intervene import intervene, plan_intervention
from vlmlake.ingest.interventions.intervention import Settings
from vlmlake.ingest.interventions.requests.ablation import Ablation
from vlmlake.ingest.interventions.requests.bypass import Bypass
from vlmlake.ingest.interventions.requests.heads import HeadAblation
from vlmlake.ingest.interventions.requests.masking import Masking, MaskSet
from vlmlake.ingest.interventions.requests.patching import Patching
from vlmlake.ingest.replay_job import Sources
from vlmlake.store_schema.capture_plan import CapturePlan

LAST = "block_3"


@pytest.fixture(scope="module")
def original(checkpoints, tmp_path_factory) -> Path:
    """A folder with a lake, its data, and its model."""
    folder = tmp_path_factory.mktemp("original")
    small_run(shutil.copytree(checkpoints["llava"], folder / "model"), folder)
    return folder


@pytest.fixture
def lake(original) -> tuple[str, str]:
    url = str(original / "lake")
    return url, open_lake(url).runs[0]


def files(url: str) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path(url).rglob("*") if path.is_file()}


def refused(told: str, call, *arguments, **keywords) -> None:
    with pytest.raises(VlmlakeError) as caught:
        call(*arguments, **keywords)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        (Ablation(), "analyze"),
        (Ablation(layer=LAST, neurons=(1,)), "none is left to measure activations on: ask about fewer of them"),
        (HeadAblation(LAST, mode="mean"), "none is left to measure activations on: ask about fewer of them"),
        (Patching(rule="exact"), "there is nothing to patch between"),
        (HeadAblation("block_7"), "no layer block_7"),
        (HeadAblation(LAST, (0, 4)), "heads 0 to 3, got 4"),
        (HeadAblation(LAST, (-1,)), "heads 0 to 3, got -1"),
        (Bypass(layers=("block_9",)), "no layer block_9"),
    ],
)
def test_requests_that_the_run_cannot_answer(lake, request_, told):
    before = files(lake[0])
    for call in (intervene, plan_intervention):
        refused(told, call, *lake, request_, list(EXAMPLES))
    assert files(lake[0]) == before


def test_runs_examples_and_routes_that_are_not_there(lake):
    before, url = files(lake[0]), lake[0]
    for call in (intervene, plan_intervention):
        refused("nothing", call, url, "nothing", Bypass())
        refused("has no example tiny_pope/random/99", call, *lake, Bypass(), ["tiny_pope/random/99", EXAMPLES[0]])
        refused("is left to ask about", call, *lake, Bypass(), [])
        refused("nowhere", call, str(Path(url).parent / "nowhere"), lake[1], Bypass())
    refused("route is fast, expected one of auto, algebra, suffix, full", Settings, route="fast")
    refused("answer tokens is 0", Settings, answer_tokens=0)
    assert files(url) == before


def test_routes_that_a_condition_cannot_take(lake):
    for route, request, told in (
        ("algebra", Bypass(("mlp",), ("block_1",)), "cannot take the route algebra"),
        ("algebra", HeadAblation(LAST), "cannot take the route algebra"),
        ("suffix", Masking(sets=(MaskSet("random", 1),)), "takes the route full"),
        ("algebra", Masking(sets=(MaskSet("random", 1),)), "takes the route full"),
    ):
        refused(told, plan_intervention, *lake, request, settings=Settings(route=route))
        refused(told, intervene, *lake, request, settings=Settings(route=route))


def test_a_lake_behind_a_web_address(lake):
    with FileServer(lake[0]) as server:
        refused("is a web address", intervene, server.url, lake[1], Bypass(("mlp",), (LAST,)))
        assert plan_intervention(server.url, lake[1], Bypass(("mlp",), (LAST,))).pairs == 2 * len(EXAMPLES)


def test_a_model_that_is_gone_or_another(checkpoints, original, tmp_path):
    shutil.copytree(original / "lake", tmp_path / "lake")
    url = str(tmp_path / "lake")
    run = open_lake(url).runs[0]
    aside = original / "aside"
    (original / "model").rename(aside)
    try:
        refused("--model says where", intervene, url, run, Bypass(("mlp",), (LAST,)))
        other = Sources(model=str(checkpoints["paligemma"]))
        refused("is not that of", intervene, url, run, Bypass(("mlp",), (LAST,)), settings=Settings(sources=other))
        there = Settings(sources=Sources(model=str(aside)))
        came = intervene(url, run, Bypass(("mlp",), (LAST,)), settings=there)
        assert (came.computed, came.missing) == (2 * len(EXAMPLES), 0)
    finally:
        aside.rename(original / "model")


def test_an_image_or_a_question_that_is_another_now(original, tmp_path):
    shutil.copytree(original / "lake", tmp_path / "lake")
    url = str(tmp_path / "lake")
    run = open_lake(url).runs[0]
    for images, questions, told in (
        ({**IMAGES, "wide.png": scene(5, (100, 60))}, QUESTIONS, "wide.png of example"),
        (IMAGES, (*QUESTIONS[:4], ("tall.png", "Is there a cat?"), QUESTIONS[5]), "asks 'Is there a cat?' now"),
        (IMAGES, QUESTIONS[:5], f"no example {EXAMPLES[5]}"),
    ):
        place = tmp_path / str(len(list(tmp_path.iterdir())))
        sources = Sources(datasets=(write_pope(place, images, questions),))
        for request in (Bypass(("mlp",), (LAST,)), Masking(sets=(MaskSet("random", 1),))):
            refused(told, intervene, url, run, request, settings=Settings(sources=sources))
    assert not list((tmp_path / "lake").glob("outcomes/**/*.parquet"))


def test_what_the_run_does_not_keep(checkpoints, tmp_path):
    job = job_of(checkpoints["llava"], "shapes:3@3", tmp_path / "lake")
    bare = CapturePlan("bare", ("readout_states", "logits"), dtype="float32")
    run = run_job(type(job)(**{**vars(job), "plan": bare}))
    refused("attention", intervene, job.lake, run.name, Masking())
    refused("keeps no layer block_9", intervene, job.lake, run.name, Patching(layers=("block_9",), rule="exact"))
    refused("keeps no attn_write", intervene, job.lake, run.name, Patching("attn_out", rule="exact"))
    assert intervene(job.lake, run.name, Masking(sets=(MaskSet("random", 1),))).missing == 0


def test_the_masks_that_an_intervention_lays_are_asked_about(original, tmp_path):
    """The whole of an image covered is the same gray whichever patches came first; a part of it is not."""
    shutil.copytree(original / "lake", tmp_path / "lake")
    url = str(tmp_path / "lake")
    run = open_lake(url).runs[0]
    sets = (MaskSet("high"), MaskSet("low"), MaskSet("random", 2))
    margins = {}
    for share in (1.0, 0.5):
        came = intervene(url, run, Masking(share, sets))
        assert (came.missing, came.differing) == (0, 0)
        table = open_lake(url).table("interventions").filter(intervention=came.intervention, kind="mask")
        made = open_lake(url).table("outcomes").join(table.select("condition", "set", "member"), on="condition")
        by_set = made.sort("example").partition_by("set", "member", as_dict=True)
        margins[share] = [rows["margin"].to_list() for rows in by_set.values()]
        assert len(margins[share]) == 4
    for other in margins[1.0][1:]:
        assert other == pytest.approx(margins[1.0][0], abs=1e-4)
    assert len({tuple(one) for one in margins[0.5]}) == 4
