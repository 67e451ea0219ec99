import re

import numpy as np
import polars as pl
import pytest
from distributed import Client, LocalCluster
from scipy.stats import norm
from sklearn.metrics import brier_score_loss, roc_auc_score
from sklearn.model_selection import StratifiedKFold

from tests.analysis.planted_probes import planted_states
from vlmlake.analysis.parameters import parameters_of
from vlmlake.analysis.population import population
from vlmlake.analysis.probes.folds import fold_numbers, grouped_folds
from vlmlake.analysis.probes.one_probe import FOLDS, INNER_FOLDS
from vlmlake.analysis.probes.out_of_fold import Design, design, out_of_fold
from vlmlake.analysis.probes.probes import ProbeParameters, probes
from vlmlake.analysis.probes.scores import spread
from vlmlake.analysis.statistics.bootstrap import image_weights, levels
from vlmlake.analysis.statistics.roc import auroc, auroc_gain, aurocs, weighted_auroc
from vlmlake.errors import VlmlakeError

LAYERS = ("embed", "block_0", "block_1", "block_2")


def by_layer(found, metric, position="prompt_last", split="all"):
    rows = found.rows(metric=metric, position=position, split=split, statistic="auroc")
    return {row["layer"]: row for row in rows.iter_rows(named=True)}


def plan_of(chosen, seed=0):
    return design(chosen.correct, chosen.images, FOLDS, INNER_FOLDS, seed)


@pytest.fixture(scope="module")
def planted():
    data = planted_states(signal_layer="block_1")
    return data, probes(data)


@pytest.mark.parametrize(("images", "hidden", "blocks"), [(30, 40, 2), (60, 12, 3), (120, 6, 4)])
def test_the_signal_is_found_at_its_layer_and_nowhere_else(images, hidden, blocks):
    data = planted_states(images=images, hidden=hidden, blocks=blocks, signal_layer="block_1")
    found = by_layer(probes(data, parameters=ProbeParameters(positions=("prompt_last",))), "probe")
    assert list(found) == data["layer"].values.tolist()
    # Two normals two standard deviations apart have AUROC 0.921; what the fit costs is within the interval's width.
    assert found["block_1"]["high"] > 0.85
    for layer in set(found) - {"block_1"}:
        assert abs(found[layer]["value"] - 0.5) < 0.1
        assert found["block_1"]["low"] > found[layer]["high"]


def test_the_interval_covers_the_planted_truth_and_the_nested_choice_names_the_layer(planted):
    _, found = planted
    row = by_layer(found, "probe")["block_1"]
    assert row["low"] < norm.cdf(2 / np.sqrt(2)) < row["high"]
    (nested,) = by_layer(found, "probe_nested").values()
    assert nested["value"] == row["value"]
    assert nested["note"] == "block_1 in every fold"


def test_an_answers_own_token_is_probed_apart_and_said_to_read_the_answer(planted):
    _, found = planted
    rows = by_layer(found, "probe", "answer_0")
    assert set(rows) == set(LAYERS)
    for row in rows.values():
        assert row["note"] == "can read the answer itself"
        assert abs(row["value"] - 0.5) < 0.15
    (nested,) = by_layer(found, "probe_nested", "answer_0").values()
    assert nested["note"].startswith("can read the answer itself; layers ")
    assert set(found.table.filter(pl.col("metric").str.starts_with("first_"))["position"]) == {"prompt_last"}


def test_without_answer_tokens_only_the_prompt_is_probed():
    data = planted_states(images=30)
    found = probes(data.assign_coords(answer_tokens=("example", np.zeros(180, int))))
    assert found.rows(position="prompt_last")["value"].null_count() == 0
    row = found.row(position="answer_0")
    assert row["value"] is None
    assert row["note"] == "0 of 0 answers are right: expected right and wrong ones"


def test_shuffled_labels_are_at_chance_even_where_the_signal_is(planted):
    _, found = planted
    rows = by_layer(found, "probe_shuffled")
    assert set(rows) == set(LAYERS)
    assert sum(row["low"] < 0.5 < row["high"] for row in rows.values()) >= 3
    assert max(abs(row["value"] - 0.5) for row in rows.values()) < 0.13


@pytest.mark.parametrize(
    ("images", "shuffled", "folds", "why"),
    [
        (20, "000000" + "111111" * 19, (5, 4), "5 folds of 20 images leave a training part with one class"),
        (4, "11" + "11" + "01" + "00", (3, 2), "right answers or wrong ones are found in 1 images only"),
    ],
    ids=["cut", "compared"],
)
def test_an_unlucky_shuffle_costs_the_baseline_alone(images, shuffled, folds, why):
    data = planted_states(images=images, questions=len(shuffled) // images, blocks=1)
    correct = np.empty(len(shuffled), int)
    correct[np.random.default_rng(0).permutation(len(shuffled))] = list(map(int, shuffled))
    gold = data["gold"].values
    data = data.assign_coords(answer=("example", np.where(correct, gold, np.where(gold == "yes", "no", "yes"))))
    only = ProbeParameters(*folds, positions=("prompt_last",))
    found = probes(data, parameters=only)
    for metric in ("probe", "probe_nested", "first_log_prob"):
        assert found.rows(metric=metric)["value"].null_count() == 0
    rows = by_layer(found, "probe_shuffled")
    assert list(rows) == ["embed", "block_0"]
    for row in rows.values():
        assert row["value"] is None
        assert re.match(why, row["note"])


def test_the_nested_choice_among_noise_layers_is_not_optimistic():
    only = ProbeParameters(positions=("prompt_last",))
    values = [
        by_layer(probes(planted_states(images=40, seed=seed), parameters=only), "probe_nested")["chosen"]["value"]
        for seed in range(12)
    ]
    assert abs(np.mean(values) - 0.5) < 0.04


def test_baselines_and_the_gain_are_scored_on_the_same_examples(planted):
    _, found = planted
    for name in ("first_log_prob", "first_gap", "first_entropy"):
        row = found.row(metric=name)
        assert row["n"] == by_layer(found, "probe")["embed"]["n"]
        assert abs(row["value"] - 0.5) < 0.1
    gain = found.row(metric="probe_gain", position="prompt_last")
    nested = found.row(metric="probe_nested", position="prompt_last")
    assert gain["value"] == pytest.approx(nested["value"] - found.row(metric="first_log_prob")["value"])
    assert 0 < gain["low"] < gain["value"] < gain["high"]


def test_folds_keep_the_questions_of_an_image_together():
    chosen = population(planted_states())
    cut = grouped_folds(chosen.correct, chosen.images, FOLDS, seed=0)
    for train, test in cut:
        assert not set(chosen.images[train]) & set(chosen.images[test])
    assert sorted(np.concatenate([test for _, test in cut])) == list(range(len(chosen)))
    plan = plan_of(chosen)
    np.testing.assert_array_equal(plan.strata, fold_numbers(cut))
    for (outer, _), inner in zip(plan.folds, plan.inner, strict=True):
        for train, test in inner:
            assert set(train) | set(test) == set(outer)
            assert not set(chosen.images[train]) & set(chosen.images[test])


def test_a_random_split_leaks_what_the_grouped_one_does_not():
    """Every image has its own mark and one fate for all its questions: only a split across images is honest."""
    covered = []
    for seed in range(8):
        data = planted_states(images=60, hidden=48, fate_of_images=True, seed=seed)
        chosen = population(data)
        features = data["readout_states"].isel(layer=0, position=0).values
        grouped = plan_of(chosen)
        leaky = at_random(np.arange(len(chosen)), FOLDS, chosen.correct)
        inner = tuple(at_random(train, INNER_FOLDS, chosen.correct) for train, _ in leaky)
        inflated = out_of_fold(features, Design(chosen.correct, leaky, inner)).logits
        assert roc_auc_score(chosen.correct, inflated) > 0.9
        honest = out_of_fold(features, grouped).logits
        estimate = auroc(honest, chosen.correct, chosen.images, 0, grouped.strata)
        covered.append(estimate.low < 0.5 < estimate.high)
    assert sum(covered) >= 6


def at_random(among, folds, correct):
    cut = StratifiedKFold(folds, shuffle=True, random_state=0).split(among, correct[among])
    return tuple((among[train], among[test]) for train, test in cut)


def test_splits_are_scored_out_of_the_pooled_folds_and_pairs_count_once():
    once, twice = (
        planted_states(images=30, signal_layer="block_1"),
        planted_states(images=30, signal_layer="block_1", splits=2),
    )
    alone, both = probes(once), probes(twice)
    pooled = by_layer(both, "probe")
    for layer, row in by_layer(alone, "probe").items():
        assert (pooled[layer]["value"], pooled[layer]["n"]) == (pytest.approx(row["value"]), 180)
    for split in ("split_0", "split_1"):
        row = by_layer(both, "probe", split=split)["block_1"]
        assert row["value"] == pytest.approx(pooled["block_1"]["value"])
        assert (row["n"], row["note"]) == (180, "trained on all splits")
    assert both.rows(metric="probe_shuffled", split="split_0").is_empty()
    for name in ("first_log_prob", "first_gap", "first_entropy"):
        assert both.row(metric=name, split="split_0")["note"] is None
    assert both.row(metric="probe_gain", split="split_0", position="prompt_last")["note"].endswith("all splits")
    values = both.examples["probe_nested"].sel(position="prompt_last").values
    assert np.isfinite(values).all()
    np.testing.assert_array_equal(values[:180], values[180:])


def test_probabilities_of_unlabelled_examples_are_missing_and_the_others_lie_between_0_and_1():
    data = planted_states(images=30, signal_layer="block_1")
    answers = data["answer"].values.astype(object)
    answers[[3, 50]] = "hmm"
    found = probes(data.assign_coords(answer=("example", answers)), rule="yes_xor_no").examples
    assert found["probe"].dims == ("example", "position", "layer")
    assert found["probe_nested"].dims == ("example", "position")
    missing = np.isnan(found["probe_nested"].sel(position="prompt_last").values)
    assert np.flatnonzero(missing).tolist() == [3, 50]
    kept = found["probe"].values[~missing]
    assert ((kept > 0) & (kept < 1)).all()


def test_calibration_mends_the_certainty_of_an_overfit_probe():
    data = planted_states(images=60, hidden=300, signal_layer="block_1")
    chosen = population(data)
    scored = out_of_fold(data["readout_states"].isel(layer=2, position=0).values, plan_of(chosen))
    raw = 1 / (1 + np.exp(-scored.logits))
    assert brier_score_loss(chosen.correct, scored.probabilities) < brier_score_loss(chosen.correct, raw) - 0.01


def test_calibrated_probabilities_are_reliable_where_the_truth_is_planted():
    data = planted_states(images=300, hidden=4, signal_layer="block_1")
    chosen = population(data)
    scored = out_of_fold(data["readout_states"].isel(layer=2, position=0).values, plan_of(chosen))
    for part in np.array_split(np.argsort(scored.probabilities), 6):
        assert scored.probabilities[part].mean() == pytest.approx(chosen.correct[part].mean(), abs=0.08)


def test_a_layer_without_variation_gets_a_reason_instead_of_one_half():
    data = planted_states(images=30, signal_layer="block_1").compute()
    data["readout_states"].values[:, 0, 0] = 1.5
    found = probes(data.chunk())
    embed = by_layer(found, "probe")["embed"]
    assert embed["value"] is None
    assert embed["note"] == "readout states at embed are the same for all 180 examples"
    assert set(by_layer(found, "probe_shuffled")) == set(LAYERS) - {"embed"}
    assert np.isnan(found.examples["probe"].sel(layer="embed", position="prompt_last")).all()


def test_a_baseline_without_variation_gets_a_reason_and_leaves_the_others_alone():
    data = planted_states(images=30, signal_layer="block_1")
    data["first_log_prob"] = data["first_log_prob"] * 0 - 1.0
    found = probes(data)
    for metric, statistic in (("first_log_prob", "auroc"), ("probe_gain", "auroc_difference")):
        row = found.row(metric=metric, statistic=statistic, split="all", position="prompt_last")
        assert row["value"] is None
        assert "is constant over all 180 examples" in row["note"]
    assert found.row(metric="first_gap", split="all")["value"] is not None
    assert by_layer(found, "probe")["block_1"]["low"] > 0.8


def test_a_layer_that_holds_no_number_is_refused_and_the_others_are_probed():
    data = planted_states(images=30, signal_layer="block_1").compute()
    data["readout_states"].values[7, 1, 0, 2] = np.nan
    rows = by_layer(probes(data.chunk()), "probe")
    assert rows["block_0"]["value"] is None
    assert rows["block_0"]["note"] == "block_0: 1 of 12 features are no number somewhere"
    assert rows["block_1"]["low"] > 0.8


def test_what_cannot_be_probed_is_refused_by_name():
    with pytest.raises(VlmlakeError, match="4 images cannot be cut into 5 folds"):
        probes(planted_states(images=4))
    rarely = planted_states(images=10)
    answers = rarely["gold"].values.copy()
    answers[:3] = np.where(answers[:3] == "yes", "no", "yes")
    with pytest.raises(VlmlakeError, match="3 answers of one class cannot be spread over 5 folds: too few errors"):
        probes(rarely.assign_coords(answer=("example", answers)))
    always = planted_states(images=10)
    with pytest.raises(VlmlakeError, match="60 of 60 answers are right"):
        probes(always.assign_coords(answer=("example", always["gold"].values)))
    with pytest.raises(VlmlakeError, match="keeps none of the positions answer_7"):
        probes(always, parameters=ProbeParameters(positions=("answer_7",)))
    with pytest.raises(VlmlakeError, match="keeps no readout_states"):
        probes(always.drop_vars("readout_states"))


@pytest.mark.parametrize("analysis", ["probes", "attention_probe", "fusion"])
@pytest.mark.parametrize("name", ["folds", "inner_folds"])
@pytest.mark.parametrize("number", [1, 0, -3])
def test_fewer_than_two_folds_are_refused_at_the_door(analysis, name, number):
    assert getattr(parameters_of([f"{analysis}.{name}=2"])[analysis], name) == 2
    with pytest.raises(VlmlakeError, match=f"^{name} is {number}, expected 2 or more"):
        parameters_of([f"{analysis}.{name}={number}"])


@pytest.mark.parametrize("given", ["[]", ""])
def test_positions_that_are_none_are_refused_at_the_door(given):
    with pytest.raises(VlmlakeError, match=r"positions are .*, expected names such as prompt_last"):
        parameters_of([f"probes.positions={given}"])


def test_the_same_seed_gives_the_same_rows_and_a_cluster_the_same_numbers(planted):
    data, found = planted
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster):
        again = probes(data)
    assert again.table.equals(found.table)
    assert again.examples.identical(found.examples)


def test_every_row_carries_its_passport(planted):
    _, found = planted
    for row in found.table.iter_rows(named=True):
        assert (row["run"], row["dataset"], row["rule"]) == ("planted-00000000", "planted", "pope_official")
        assert (row["n"], row["n_items"], row["n_images"]) == (360, 360, 60)
        assert 0 < row["base_rate"] < 1


def test_the_plot_has_a_line_for_each_position_and_its_baseline(planted):
    _, found = planted
    assert len(found.plot().get_legend_handles_labels()[1]) == 4
    assert {"probe_auroc", "probe_nested_auroc", "probe"} <= set(found.to_xarray().data_vars)


def test_numbers_spread_to_the_examples_of_their_row():
    data = planted_states(images=2, questions=3, splits=2)
    chosen = population(data)
    chosen = chosen.where(np.arange(len(chosen)) != 4, "left out")
    values = spread(data, chosen, np.array([np.arange(5), 10 + np.arange(5)]))
    np.testing.assert_array_equal(values[0], [0, 1, 2, 3, np.nan, 4] * 2)
    np.testing.assert_array_equal(values[1], [10, 11, 12, 13, np.nan, 14] * 2)


@pytest.mark.parametrize("whole", [True, False], ids=["counts", "fractions"])
@pytest.mark.parametrize("compared", [0, 10**6], ids=["sorted", "compared"])
def test_weighted_auroc_is_scikit_learns_on_either_path(monkeypatch, compared, whole):
    monkeypatch.setattr("vlmlake.analysis.statistics.roc.PAIRS_AN_EXAMPLE", compared)
    rng = np.random.default_rng(0)
    correct, scores = (rng.random(60) < 0.6).astype(float), rng.normal(size=60).round(1)
    weights = rng.integers(0, 4, (7, 60)) if whole else rng.random((7, 60))
    wanted = [roc_auc_score(correct, scores, sample_weight=row) for row in weights]
    np.testing.assert_allclose(weighted_auroc(scores, correct, weights), wanted)


def test_aurocs_of_many_scores_are_those_of_each():
    rng = np.random.default_rng(1)
    correct, images, strata = np.tile([1.0, 0, 1], 30), np.repeat(np.arange(30), 3), np.repeat(np.arange(3), 30)
    scores = rng.normal(size=(4, 90))
    assert aurocs(scores, correct, images, 3, strata) == [auroc(row, correct, images, 3, strata) for row in scores]
    scores[1, 4], scores[2] = np.nan, 0.5
    first, gap, constant, last = aurocs(scores, correct, images, 3, strata)
    assert [first, last] == aurocs(scores[[0, 3]], correct, images, 3, strata)
    assert str(gap) == "the score is no number for 1 of 90 examples"
    assert str(constant).startswith("the score is constant over all 90 examples")


def with_image_effects(rng, images, questions, truth):
    """Scores of known AUROC whose examples share something within an image: two normals, total variance 1."""
    image = np.repeat(np.arange(images), questions)
    correct = (rng.random(images * questions) < 0.7).astype(float)
    shared = np.sqrt(0.5) * rng.normal(size=images)[image]
    noise = shared + np.sqrt(0.5) * rng.normal(size=len(image))
    return image, correct, noise + correct * np.sqrt(2) * norm.ppf(truth)


@pytest.mark.parametrize("truth", [0.5, 0.8])
def test_intervals_cover_the_truth_at_their_nominal_rate_where_images_have_effects(truth):
    rng, hits = np.random.default_rng(5), 0
    for draw in range(200):
        images, correct, scores = with_image_effects(rng, 60, 4, truth)
        found = auroc(scores, correct, images, seed=draw)
        hits += found.low <= truth <= found.high
    assert 0.90 <= hits / 200 <= 0.99


def test_the_interval_of_a_gain_is_paired():
    rng = np.random.default_rng(6)
    images, correct, scores = with_image_effects(rng, 80, 4, 0.75)
    near = scores + 0.1 * rng.normal(size=len(scores))
    gain = auroc_gain(near, scores, correct, images, seed=0)
    alone = auroc(scores, correct, images, seed=0)
    assert gain.low < 0 < gain.high
    assert (gain.high - gain.low) < 0.3 * (alone.high - alone.low)
    weights = image_weights(images, 0)
    drawn = weighted_auroc(near, correct, weights) - weighted_auroc(scores, correct, weights)
    assert (gain.low, gain.high) == pytest.approx(
        tuple(np.quantile(drawn, levels(len(np.unique(images[correct == 0])))))
    )
