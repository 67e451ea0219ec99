import numpy as np
import polars as pl
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from tests.analysis.planted_probes import NEURON, WORDS, planted_states
from vlmlake.analysis.neurons.halves import kept_images
from vlmlake.analysis.neurons.neurons import NeuronParameters, neurons
from vlmlake.analysis.neurons.rankings import (
    attribution,
    d_act,
    gold_and_runner_up,
    gold_tokens,
    univariate_auroc,
)
from vlmlake.errors import VlmlakeError
from vlmlake.store_schema import tables


def first_of(found, ranking, site, layer):
    rows = found.rankings.filter(ranking=ranking, site=site, layer=layer).sort("rank")
    return rows["neuron"][0]


@pytest.mark.parametrize(("images", "hidden"), [(40, 12), (80, 40), (120, 150)])
@pytest.mark.parametrize("site", ["resid", "mlp_out"])
def test_the_planted_neuron_leads_every_ranking_of_correctness_at_its_layer(site, images, hidden):
    found = neurons(planted_states(images=images, hidden=hidden, signal_layer="block_1"))
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
        rows = neurons(planted_states(images=40, hidden=60, seed=seed)).rows(statistic="auroc")
        values += rows["value"].to_list()
    assert abs(np.mean(values) - 0.5) < 0.03


def test_a_neuron_that_writes_the_gold_answer_leads_the_attribution():
    data = planted_states(images=40).compute()
    towards = np.where(np.isin(WORDS, ("▁yes", "Yes")), 1.0, -1.0)
    data["unembedding"].values[:, 5] = 8 * towards
    data["readout_states"].values[:, 2, 0, 5] = np.where(data["gold"] == "yes", 3.0, -3.0)
    # Of the right answer's runner-up: the other answer.
    data["logits"].values[:] = np.where(np.isin(WORDS, ("▁yes", "Yes", " no", "No")), 5, -5)
    found = neurons(data.chunk())
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
    with pytest.raises(VlmlakeError, match="expected between 0 and 1"):
        kept_images(images, 1.0, 0)


def test_what_is_kept_for_ablation_has_no_say_in_the_rankings():
    data = planted_states(images=40, signal_layer="block_1").compute()
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
    found = neurons(planted_states(images=40), parameters=NeuronParameters(kept=5, layers="all"))
    wanted = tables.frame(tables.RANKINGS.empty_table()).drop("where")
    assert found.rankings.schema == wanted.schema
    for (ranking, *_), rows in found.rankings.group_by("ranking", "site", "layer"):
        assert rows["rank"].to_list() == list(range(1, rows.height + 1))
        assert rows.height == 5 or ranking == "l1"
        assert rows["score"].abs().is_sorted(descending=True)
    assert {"d_act", "auroc", "attribution"} <= set(found.rankings["ranking"])


def test_rankings_of_a_planted_neuron_are_stable_and_those_of_noise_are_not():
    parameters = NeuronParameters(stable_top=1)
    found = neurons(planted_states(images=80, hidden=40, signal_layer="block_1"), parameters=parameters)
    row = found.row(metric="auroc_stability_resid", layer="block_1")
    assert (row["value"], row["at"]) == (1, 1)
    noise = [
        neurons(planted_states(images=40, hidden=40, seed=seed), parameters=parameters)
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
    texts = np.array(WORDS)
    assert gold_tokens(texts, "Yes").tolist() == [1, 2]
    logits = np.array([[0, 1, 2, 3, 0, 9.0], [0, 1, 2, 3, 4, 1], [0, 0, 0, 0, 0, 0]])
    found = gold_and_runner_up(logits, np.array(["yes", "no", "maybe"], object), texts)
    assert found.tolist() == [[2, 5], [4, 2], [-1, -1]]


def test_without_logits_there_is_no_attribution_and_a_row_says_so():
    found = neurons(planted_states(images=40).drop_vars("logits"))
    assert "attribution" not in set(found.rankings["ranking"])
    assert "no attribution: run planted-00000000 keeps no logits" in found.row(metric="images_ranking")["note"]
    assert set(neurons(planted_states(images=40).drop_vars("mlp_write")).rankings["site"]) == {"resid"}


def test_what_cannot_be_ranked_is_refused_by_name():
    data = planted_states(images=40)
    with pytest.raises(VlmlakeError, match="unknown sites q_proj"):
        neurons(data, parameters=NeuronParameters(sites=("q_proj",)))
    with pytest.raises(VlmlakeError, match="unknown layers block_9"):
        neurons(data, parameters=NeuronParameters(layers=("block_9",)))
    with pytest.raises(VlmlakeError, match="of the images that rank neurons, 0 of 0 answers are right"):
        neurons(planted_states(images=1))
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
    assert "the score is constant over all" in row["note"]
    assert found.row(metric="best_neuron_mlp_out", layer="block_1")["value"] is not None


def test_the_plot_has_a_line_a_site():
    assert len(neurons(planted_states(images=40)).plot().get_legend_handles_labels()[1]) == 2
