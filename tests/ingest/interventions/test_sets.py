"""Which neurons are ablated and to what: rankings, images kept apart, controls, the null layer and measured means."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from tests.ingest.jobs import job_of, run_job
from vlmlake import open_lake
from vlmlake.analysis.analyze import analyze
from vlmlake.errors import VlmlakeError
from vlmlake.ingest.interventions.intervene import intervene, plan_intervention
from vlmlake.ingest.interventions.intervention import Intervention, Settings
from vlmlake.ingest.interventions.requests.ablation import Ablation, parse_sizes
from vlmlake.ingest.interventions.requests.controls import matched_sets

WIDTH, LAST = 64, "block_3"
FIRST_TOKEN = Settings(1)


@pytest.fixture(scope="module")
def unranked(checkpoints, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unranked") / "lake"
    return folder, run_job(job_of(checkpoints["llava"], "shapes:12@2", folder, plan="readout", batch_size=16)).name


@pytest.fixture(scope="module")
def ranked(unranked, tmp_path_factory) -> tuple[str, str]:
    """URL, and the run's name; tests leave the rankings as they are."""
    folder = tmp_path_factory.mktemp("ranked") / "lake"
    shutil.copytree(unranked[0], folder)
    analyze(str(folder), ["neurons"])
    return str(folder), unranked[1]


def settled(lake, request, examples=None) -> tuple[Intervention, pl.DataFrame]:
    """With its rows of tables.INTERVENTIONS."""
    made = Intervention.of(open_lake(lake[0]).run(lake[1]), request, examples, FIRST_TOKEN)
    made.settle()
    rows = open_lake(lake[0]).table("interventions").filter(intervention=made.id)
    told = rows.with_columns(
        neurons=pl.col("edits").list.first().struct.field("neurons"),
        values=pl.col("edits").list.first().struct.field("values"),
    )
    return made, told


def order_of(lake, ranking: str, site: str, layer: str) -> list[int]:
    table = open_lake(lake[0]).table("rankings")
    return table.filter(ranking=ranking, site=site, layer=layer).sort("rank")["neuron"].to_list()


def kept(lake) -> dict[str, bool]:
    """By image, by its content."""
    told = open_lake(lake[0]).table("metrics").filter(metric="kept_for_ablation")
    rows = open_lake(lake[0]).run(lake[1]).examples().join(told, on="example")
    return dict(zip(rows["image_sha256"], rows["value"] == 1, strict=True))


@pytest.mark.parametrize("ranking", ["attribution", "auroc", "d_act", "l1"])
def test_sets_are_the_ends_of_the_ranking(ranked, ranking):
    """What an L1 probe leaves out follows in the order of d_act."""
    order = order_of(ranked, ranking, "resid", LAST)
    order += [one for one in order_of(ranked, "d_act", "resid", LAST) if one not in order]
    assert sorted(order) == list(range(WIDTH))
    _, told = settled(ranked, Ablation(ranking, top=(1, 5, 20, 0.5), controls=0))
    assert told.filter(layer=LAST).height == 8
    for k, share in ((1, None), (5, None), (20, None), (32, 0.5)):
        rows = told.filter(k=k, layer=LAST)
        sets = dict(rows.select("set", "neurons").iter_rows())
        assert sets == {"top": order[:k], "bottom": order[-k:]}
        assert rows["share"].to_list() == [share] * 2
    assert set(told.filter(pl.col("kind") == "ablate")["ranking"]) <= {ranking, "d_act"}


def test_the_null_layer_is_ablated_in_the_same_sizes(ranked):
    _, told = settled(ranked, Ablation("attribution", top=(1, 5), controls=0, bottom=False))
    null = told.filter(set="null")
    assert null["layer"].to_list() == ["block_0"] * 2
    assert null["neurons"].to_list() == [order_of(ranked, "attribution", "resid", "block_0")[:k] for k in (1, 5)]
    _, told = settled(ranked, Ablation("l1", top=(3,), controls=0, null_layer="block_1"))
    row = told.filter(set="null").row(0, named=True)
    assert (row["layer"], row["ranking"]) == ("block_1", "d_act")
    assert row["neurons"] == order_of(ranked, "d_act", "resid", "block_1")[:3]
    for none in (Ablation(top=(3,), null_layer=""), Ablation("d_act", layer="block_0", top=(3,), controls=0)):
        assert "null" not in settled(ranked, none)[1]["set"].to_list()


def test_a_null_layer_that_is_asked_for_is_not_left_out(checkpoints, tmp_path):
    """By default there is none where the run does not keep the first block."""
    job = job_of(checkpoints["llava"], "shapes:12@2", tmp_path / "lake", plan="readout", batch_size=16)
    run = run_job(replace(job, plan=replace(job.plan, layers=("block_2", "block_3"))))
    lake = job.lake, run.name
    analyze(job.lake, ["neurons"])
    request = Ablation("d_act", top=(3,), controls=0)
    assert "null" not in settled(lake, request)[1]["set"].to_list()
    assert "null" in settled(lake, replace(request, null_layer="block_2"))[1]["set"].to_list()
    with pytest.raises(VlmlakeError, match="no ranking d_act of resid at block_0: there are block_2, block_3"):
        intervene(*lake, replace(request, null_layer="block_0"))


def test_images_that_ranked_are_not_asked_about(ranked):
    made, _ = settled(ranked, Ablation(top=(1,), controls=0))
    images = kept(ranked)
    assert 0 < sum(images.values()) < len(images) == 12
    assert {images[one] for one in made.asked["image_sha256"]} == {True}
    assert {images[one] for one in made.spare["image_sha256"]} == {False}
    rows = open_lake(ranked[0]).run(ranked[1]).examples()
    assert made.asked.height == sum(images[one] for one in rows["image_sha256"])
    own = made.asked["example"].to_list()[:3]
    assert settled(ranked, Ablation(top=(1,), controls=0), own)[0].asked["example"].to_list() == own


def test_images_that_ranked_are_named_where_they_are_asked_for(ranked):
    images = kept(ranked)
    rows = open_lake(ranked[0]).run(ranked[1]).examples()
    ranked_rows = rows.filter(~pl.col("image_sha256").replace_strict(images))
    names = ranked_rows["image"].unique(maintain_order=True).to_list()
    (one,) = ranked_rows.filter(image=names[0])["example"].to_list()[:1]
    fine = rows.filter(pl.col("image_sha256").replace_strict(images))["example"].to_list()
    for call in (intervene, plan_intervention):
        with pytest.raises(VlmlakeError) as caught:
            call(*ranked, Ablation(top=(1,)), [one, *fine[:4]])
        assert names[0] in str(caught.value)
        assert str(caught.value).startswith("1 of ")
        assert not any(name in str(caught.value) for name in names[1:])
    with pytest.raises(VlmlakeError) as caught:
        intervene(*ranked, Ablation(top=(1,)), rows["example"].to_list())
    assert all(name in str(caught.value) for name in names[:3])
    assert f"and {len(names) - 3} more" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_has_no_ranking_is_told_in_a_line(ranked, unranked):
    lake = str(unranked[0]), unranked[1]
    for where, request, told in (
        (lake, Ablation(), "analyze URL neurons"),
        (ranked, Ablation(rule="exact"), "under the rule exact"),
        (ranked, Ablation("l2"), "no ranking l2 of resid: there are attribution of mlp_out, "),
        (ranked, Ablation(site="head_out"), "no ranking l1 of head_out"),
        (ranked, Ablation("l1", layer="block_0"), "no ranking l1 of resid at block_0"),
        (ranked, Ablation(layer="block_9"), "block_9"),
        (ranked, Ablation("d_act", null_layer="block_9"), "block_9"),
        (ranked, Ablation("d_act", null_layer="nothing"), "nothing"),
        (ranked, Ablation(top=(64,)), "64 neurons of 64: expected 1 to 63"),
        (ranked, Ablation(top=(0.001,)), "0 neurons of 64: expected 1 to 63"),
        (ranked, Ablation(layer=LAST, neurons=(64,)), "neurons 0 to 63, got 64"),
        (ranked, Ablation(layer=LAST, neurons=(-1,)), "neurons 0 to 63, got -1"),
        (ranked, Ablation(layer=LAST, neurons=tuple(range(64))), "64 neurons"),
        (ranked, Ablation(layer="block_4", neurons=(1,)), "no layer block_4: its blocks are block_0 to block_3"),
    ):
        with pytest.raises(VlmlakeError) as caught:
            intervene(*where, request, settings=FIRST_TOKEN)
        assert told in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"site": "mlp"}, "site is mlp, expected one of resid"),
        ({"mode": "median"}, "mode is median"),
        ({"positions": "last"}, "positions is last"),
        ({"top": ()}, "no size is given"),
        ({"top": (1.5,)}, "a size is 1.5"),
        ({"top": (0,)}, "a size is 0"),
        ({"top": (-0.5,)}, "a size is -0.5"),
        ({"controls": -1}, "0 or more"),
        ({"seed": -1}, "0 or more"),
        ({"layer": "last"}, "the layer is last"),
        ({"neurons": (1,)}, "without the layer"),
        ({"rule": "mine"}, "mine"),
    ],
)
def test_a_request_that_means_nothing_is_refused(wrong, told):
    with pytest.raises(VlmlakeError, match=told):
        Ablation(**wrong)


def test_sizes_as_they_are_typed():
    assert parse_sizes("1,5,0.5") == (1, 5, 0.5)
    with pytest.raises(VlmlakeError, match="sizes are '1;5'"):
        parse_sizes("1;5")


def distances(norms, chosen, sets) -> np.ndarray:
    """|log ratio| of norms, rank by rank, of the set and its controls."""
    own = np.sort(np.log(norms[chosen]))
    return np.abs(np.array([np.sort(np.log(norms[one])) for one in sets]) - own)


@pytest.mark.parametrize(("width", "k"), [(4096, 1), (4096, 5), (4096, 50), (128, 5)])
def test_controls_have_the_sizes_of_the_set(width, k):
    """Far nearer to it than sets drawn from all, as far as there are enough to draw from."""
    rng = np.random.default_rng(k)
    norms = rng.lognormal(0, 2, width)
    chosen = rng.choice(width, k, replace=False)
    sets = matched_sets(norms, chosen, 100, 0)
    unmatched = [rng.choice(width, k, replace=False) for _ in sets]
    ratio = distances(norms, chosen, sets).mean() / distances(norms, chosen, unmatched).mean()
    assert ratio < (0.2 if width == 4096 else 0.4)
    for one in sets:
        assert len(set(one.tolist())) == k
        assert not set(one.tolist()) & set(chosen.tolist())
    assert len({tuple(one.tolist()) for one in sets}) == 100
    # Both sides: the controls are not all larger, nor all smaller.
    larger = np.log(norms[np.array(sets)]).mean(axis=1) > np.log(norms[chosen]).mean()
    assert 0.02 < larger.mean() < 0.98 or k > 5


def test_controls_are_drawn_from_the_seed():
    norms, chosen = np.random.default_rng(0).lognormal(size=256), np.arange(10)
    first, again = matched_sets(norms, chosen, 5, 3), matched_sets(norms, chosen, 9, 3)
    for one, other in zip(first, again[:5], strict=True):
        assert one.tolist() == other.tolist()
    assert not {tuple(one) for one in first} & {tuple(one) for one in matched_sets(norms, chosen, 5, 4)}


def test_controls_of_a_large_share_may_share_neurons_with_it():
    norms = np.random.default_rng(0).lognormal(size=64)
    chosen = np.argsort(norms)[::-1][:32]
    sets = matched_sets(norms, chosen, 20, 0)
    assert {len(set(one.tolist())) for one in sets} == {32}
    with pytest.raises(VlmlakeError, match="all 64 neurons"):
        matched_sets(norms, np.arange(64), 1, 0)


def test_controls_of_an_intervention_are_matched_on_measured_sizes(ranked):
    made, told = settled(ranked, Ablation("d_act", top=(5,), controls=50, positions="prompt_last"))
    run = open_lake(ranked[0]).run(ranked[1])
    states = run.dataset()["readout_states"].sel(layer=LAST, position="prompt_last")
    stored = states.sel(example=made.spare["example"].to_list()).values.astype(np.float64)
    norms = np.sqrt((stored**2).mean(axis=0))
    (top,) = told.filter(set="top")["neurons"].to_list()
    sets = told.filter(set="control").sort("member")["neurons"].to_list()
    assert len(sets) == 50
    wanted = matched_sets(norms.astype(np.float32), np.array(top), 50, 0)
    assert sets == [one.tolist() for one in wanted]
    for neurons, values in told.filter(pl.col("layer") == LAST).select("neurons", "values").iter_rows():
        np.testing.assert_allclose(values, stored.mean(axis=0)[neurons], atol=1e-5)
