import json

import numpy as np
import polars as pl
import pytest
import xarray as xr
from scipy import stats
from sklearn.metrics import roc_auc_score

from tests.analysis.planted_margins import planted_margins
from tests.analysis.planted_probes import NEURON, planted_states
from vlmlake.analysis.attribution import attribution as block_attribution
from vlmlake.analysis.neurons.directions import directions
from vlmlake.analysis.neurons.halves import kept_images
from vlmlake.analysis.neurons.neurons import NeuronParameters, neurons
from vlmlake.analysis.neurons.rankings import (
    attribution,
    d_act,
    gold_and_runner_up,
    univariate_auroc,
)
from vlmlake.analysis.parameters import parameters_of
from vlmlake.answers.spellings import MODAL, NONE
from vlmlake.errors import VlmlakeError
from vlmlake.store_schema import tables


def with_its_logits(data: xr.Dataset) -> xr.Dataset:
    """The logits at prompt_last are those of the last block."""
    data = data.compute()
    last = data["readout_states"].values[:, -1, 0].astype(float)
    last /= np.sqrt((last**2).mean(axis=1, keepdims=True) + data.attrs["final_norm_epsilon"])
    data["logits"].values[:, 0] = last * data["final_norm"].values @ data["unembedding"].values.T
    return data.chunk({"example": 90, "layer": 1})


def planted(**asked) -> xr.Dataset:
    return with_its_logits(planted_states(**asked))


def with_golds(data: xr.Dataset, golds) -> xr.Dataset:
    """Other gold answers; those that the model said stay its own."""
    answers = np.where(data["answer"] == data["gold"], golds, "wrong")
    return data.assign_coords(gold=("example", np.array(golds, object)), answer=("example", answers))


def first_of(found, ranking, site, layer):
    rows = found.rankings.filter(ranking=ranking, site=site, layer=layer).sort("rank")
    return rows["neuron"][0]


@pytest.mark.parametrize(("images", "hidden"), [(40, 12), (80, 40), (120, 150)])
@pytest.mark.parametrize("site", ["resid", "mlp_out"])
def test_the_planted_neuron_leads_every_ranking_of_correctness_at_its_layer(site, images, hidden):
    found = neurons(planted(images=images, hidden=hidden, signal_layer="block_1"))
    for ranking in ("d_act", "auroc", "l1"):
        assert first_of(found, ranking, site, "block_1") == NEURON
    row = found.row(metric=f"best_neuron_{site}", layer="block_1")
    # Two normals two standard deviations apart have AUROC 0.921.
    assert row["low"] < 0.921 < row["high"] + 0.01
    assert f"{site}[block_1]:{NEURON}" in row["note"]
    for layer in ("block_0", "block_2"):
        assert abs(found.row(metric=f"best_neuron_{site}", layer=layer)["value"] - 0.5) < 0.12
    assert set(found.table.drop_nulls("layer")["layer"]) == {"block_0", "block_1", "block_2"}


def test_the_best_neuron_of_noise_is_at_chance_on_images_that_did_not_choose_it():
    values = []
    for seed in range(10):
        rows = neurons(planted(images=40, hidden=60, seed=seed)).rows(statistic="auroc")
        values += rows["value"].to_list()
    assert abs(np.mean(values) - 0.5) < 0.03


def test_a_neuron_that_writes_the_gold_answer_leads_the_attribution():
    data = planted(images=40).compute()
    data["unembedding"].values[:, 5] = [0, 8, 8, -8, -8, 0]
    data["readout_states"].values[:, 2, 0, 5] = np.where(data["gold"] == "yes", 3.0, -3.0)
    found = neurons(with_its_logits(data))
    assert first_of(found, "attribution", "resid", "block_1") == 5
    assert found.rankings.filter(ranking="attribution", site="resid", layer="block_1")["score"].max() > 10


def test_images_are_kept_whole_and_by_their_own_hash_alone():
    images = np.repeat([f"{number:064x}" for number in range(400)], 3)
    kept = kept_images(images, 0.5, 0)
    assert (kept.reshape(400, 3).all(1) | ~kept.reshape(400, 3).any(1)).all()
    assert kept.mean() == pytest.approx(0.5, abs=0.1)
    np.testing.assert_array_equal(kept_images(images[300:600], 0.5, 0), kept[300:600])
    assert (kept_images(images, 0.5, 1) != kept).any()
    assert (kept_images(images, 0.8, 0) >= kept).all()


def test_what_is_kept_for_ablation_has_no_say_in_the_rankings():
    data = planted(images=40, signal_layer="block_1").compute()
    kept = kept_images(data["image_sha256"].values, 0.5, 0)
    found = neurons(data.chunk())
    np.testing.assert_array_equal(found.examples["kept_for_ablation"].values, kept)
    spoiled = data.copy(deep=True)
    spoiled["readout_states"].values[kept] = 7
    again = neurons(spoiled.chunk())
    resid = pl.col("site") == "resid"
    assert again.rankings.filter(resid).equals(found.rankings.filter(resid))
    assert found.row(metric="images_kept")["value"] + found.row(metric="images_ranking")["value"] == 40


def test_rankings_are_rows_of_the_table_and_end_where_asked():
    found = neurons(planted(images=40), parameters=NeuronParameters(kept=5, layers="all"))
    wanted = tables.frame(tables.RANKINGS.empty_table()).drop("condition")
    assert found.rankings.schema == wanted.schema
    for (ranking, *_), rows in found.rankings.group_by("ranking", "site", "layer"):
        assert rows["rank"].to_list() == list(range(1, rows.height + 1))
        assert rows.height == 5 or ranking == "l1"
        assert rows["score"].abs().is_sorted(descending=True)
    assert {"d_act", "auroc", "attribution"} <= set(found.rankings["ranking"])


def test_rankings_of_a_planted_neuron_are_stable_and_those_of_noise_are_not():
    parameters = NeuronParameters(stable_top=1)
    found = neurons(planted(images=80, hidden=40, signal_layer="block_1"), parameters=parameters)
    row = found.row(metric="auroc_stability_resid", layer="block_1")
    assert (row["value"], row["at"]) == (1, 1)
    noise = [
        neurons(planted(images=40, hidden=40, seed=seed), parameters=parameters)
        .rows(metric="auroc_stability_resid")["value"]
        .mean()
        for seed in range(6)
    ]
    assert np.mean(noise) < 0.3


def test_univariate_auroc_is_scikit_learns_and_d_act_the_difference_of_means():
    rng = np.random.default_rng(0)
    values, correct = rng.normal(size=(70, 20)).round(1), (rng.random(70) < 0.6).astype(float)
    wanted = [roc_auc_score(correct, column) for column in values.T]
    np.testing.assert_allclose(univariate_auroc(values, correct, columns=7), wanted)
    difference = stats.ttest_ind(values[correct == 1], values[correct == 0]).statistic
    assert (np.sign(d_act(values, correct)) == np.sign(difference)).all()
    np.testing.assert_allclose(d_act(values, correct), values[correct == 1].mean(0) - values[correct == 0].mean(0))


def test_attribution_sums_to_the_difference_of_the_two_logits():
    rng = np.random.default_rng(1)
    states, scale, towards = rng.normal(size=(9, 6)), rng.random(6) + 1, rng.normal(size=(9, 6))
    rms = np.sqrt((states**2).mean(1))
    logits = (states / rms[:, None] * scale * towards).sum(1)
    assert attribution(states, rms, scale, towards).sum() == pytest.approx(logits.mean())


def test_spellings_of_the_gold_answer_and_its_runner_up_are_told_from_the_vocabulary():
    logits = np.array([[0, 1, 2, 3, 0, 9.0], [0, 1, 2, 3, 4, 1], [0, 0, 0, 0, 0, 0], [9, 0, -1, 0, 0, 1]])
    found = gold_and_runner_up(logits, np.array([[1, 2], [3, 4], [NONE, NONE], [5, NONE]]))
    assert found.tolist() == [[2, 5], [4, 2], [NONE, NONE], [5, 0]]


def test_both_attributions_are_of_the_same_examples():
    data = planted_margins(images=20)
    golds = np.where(data["gold"] == "yes", "Yes, it is.", "zebra").astype(object)
    golds[:4] = ["red circle", "dogs", "no!", None]
    data = data.assign_coords(gold=("example", golds))
    told = np.isfinite(block_attribution(data, rule="exact").examples["attribution_mlp"].values).all(axis=1)
    np.testing.assert_array_equal(directions(data).told, told)
    assert told[:4].tolist() == [True, True, True, False]


def test_attribution_says_of_how_many_examples_it_is():
    data = planted(images=40)
    golds = np.where(np.arange(240) % 3, data["gold"].values, "zebra")
    found = neurons(with_golds(data, golds), rule="exact")
    ranking = found.examples["kept_for_ablation"].values == 0
    told = f"attribution: {int((golds[ranking] != 'zebra').sum())} of {int(ranking.sum())} examples"
    assert found.row(metric="images_ranking")["note"].endswith(f"; {told}")
    notes = found.rows(metric="attribution_stability_resid")["note"]
    assert notes.str.ends_with(f"; two halves of the ranking images; {told}").to_list() == [True] * 3
    assert told not in found.row(metric="auroc_stability_resid", layer="block_1")["note"]


def test_attribution_reads_ten_annotators_golds_as_the_modal_answer():
    data = planted(images=40)
    ten = [json.dumps(["perhaps", *[gold] * 9]) for gold in data["gold"].values]
    plain, annotated = neurons(data), neurons(data.assign_coords(gold=("example", ten)), rule="vqa_soft")
    assert annotated.row(metric="images_ranking")["note"].endswith(f"examples; {MODAL}")
    attributed = pl.col("ranking") == "attribution"
    assert annotated.rankings.filter(attributed).drop("rule").equals(plain.rankings.filter(attributed).drop("rule"))


def test_a_ranking_that_one_half_lacks_has_no_stability_and_says_why():
    data = planted(images=40)
    ranking = ~kept_images(data["image_sha256"].values, 0.5, 0)
    first = kept_images(data["image_sha256"].values, 0.5, 1)
    golds = np.full(240, "zebra", object)
    told = np.flatnonzero(ranking & first)[:5]
    golds[told] = data["gold"].values[told]
    found = neurons(with_golds(data, golds), rule="exact")
    row = found.row(metric="attribution_stability_resid", layer="block_1")
    assert row["value"] is None
    assert "; one of two halves of the ranking images has nothing to rank neurons by; attribution: 5 of" in row["note"]
    assert found.row(metric="auroc_stability_resid", layer="block_1")["value"] is not None


def test_a_best_neuron_that_cannot_be_scored_costs_no_ranking():
    data = planted(images=40, signal_layer="block_1").compute()
    kept = kept_images(data["image_sha256"].values, 0.5, 0)
    one = kept & (data["image_sha256"].values == data["image_sha256"].values[kept][0])
    answers = np.where(kept & ~one, data["gold"], data["answer"].values)
    answers[one] = "wrong"
    found = neurons(data.assign_coords(answer=("example", answers)).chunk(), rule="exact")
    rows = found.rows(statistic="auroc")
    assert rows["value"].null_count() == rows.height == 6
    assert rows["note"].str.contains("found in 1 images only").all()
    assert {"d_act", "auroc", "l1"} <= set(found.rankings["ranking"])


def test_a_best_neuron_that_is_constant_on_the_kept_images_is_refused_by_name():
    data = planted(images=40, signal_layer="block_1").compute()
    kept = kept_images(data["image_sha256"].values, 0.5, 0)
    data["readout_states"].values[kept, 2] = 7
    row = neurons(data.chunk()).row(metric="best_neuron_resid", layer="block_1")
    assert row["value"] is None
    assert f"resid[block_1]:{NEURON} is constant over all" in row["note"]


def test_a_plan_without_the_last_block_has_no_attribution_and_a_row_says_so():
    found = neurons(planted(images=40).isel(layer=slice(0, 3)))
    assert "attribution" not in set(found.rankings["ranking"])
    note = found.row(metric="images_ranking")["note"]
    assert "; no attribution: the gold answer's lead at block_1 is off that of the stored logits" in note


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("kept_share=2", "neurons.kept_share is 2.0, expected a number above 0 and below 1"),
        ("kept_share=NaN", "NaN is no float"),
        ("sites=q_proj", r"neurons.sites is \('q_proj',\), expected a list of some of resid, mlp_out, attn_out"),
        ("sites=[]", r"neurons.sites is \(\), expected a list of some of resid"),
        ("sites=[1]", r"neurons.sites is \('1',\), expected a list of some of resid"),
        ("kept=0", "neurons.kept is 0, expected at least 1"),
        ("stable_top=-3", "neurons.stable_top is -3, expected at least 1"),
    ],
)
def test_parameters_that_mean_nothing_are_refused_by_name(given, said):
    with pytest.raises(VlmlakeError, match=said):
        parameters_of([f"neurons.{given}"])


def test_sites_that_are_no_list_are_refused():
    with pytest.raises(VlmlakeError, match=r"neurons.sites is 'resid', expected a list of some of resid"):
        NeuronParameters(sites="resid")


@pytest.mark.parametrize("layers", ["block_99", "block_0,block_99", ("block_0", "block_99"), ()])
def test_layers_that_the_run_has_not_are_refused_by_name(layers):
    expected = "expected best, all or blocks of the run: block_0, block_1, block_2"
    with pytest.raises(VlmlakeError, match=rf"neurons.layers is .*, {expected}"):
        neurons(planted(images=40), parameters=NeuronParameters(layers=layers))


def test_l1_probes_are_fitted_at_the_layers_that_are_named():
    parameters = parameters_of(["neurons.layers=block_0,block_2"])["neurons"]
    found = neurons(planted(images=40), parameters=parameters)
    assert set(found.rows(metric="l1_neurons_resid")["layer"]) == {"block_0", "block_2"}


def test_without_logits_there_is_no_attribution_and_a_row_says_so():
    found = neurons(planted(images=40).drop_vars("logits"))
    assert "attribution" not in set(found.rankings["ranking"])
    assert "no attribution: run planted-00000000 keeps no logits" in found.row(metric="images_ranking")["note"]
    assert set(neurons(planted(images=40).drop_vars("mlp_write")).rankings["site"]) == {"resid"}


def test_what_cannot_be_ranked_is_refused_by_name():
    data = planted(images=40)
    with pytest.raises(VlmlakeError, match="keeps no attn_write"):
        neurons(data, parameters=NeuronParameters(sites=("attn_out",)))
    with pytest.raises(VlmlakeError, match="of the images that rank neurons, 0 of 0 answers are right"):
        neurons(planted(images=1))
    constant = data.compute()
    constant["mlp_write"].values[:, 1] = 2
    row = neurons(constant.chunk()).row(metric="best_neuron_mlp_out", layer="block_0")
    assert row["note"].endswith("mlp_out at block_0 is the same for all examples that rank neurons")


def test_a_best_neuron_that_the_kept_images_hold_constant_gets_a_reason():
    data = planted_states(images=40).compute()
    kept = neurons(data.chunk()).examples["kept_for_ablation"].values == 1
    data["mlp_write"].values[kept, 1] = 2
    found = neurons(data.chunk())
    row = found.row(metric="best_neuron_mlp_out", layer="block_0")
    assert row["value"] is None
    assert "is constant over all" in row["note"]
    assert found.row(metric="best_neuron_mlp_out", layer="block_1")["value"] is not None


def test_the_plot_has_a_line_a_site():
    assert len(neurons(planted(images=40)).plot().get_legend_handles_labels()[1]) == 2
