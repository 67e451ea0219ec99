import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.analysis.planted import LAYERS, planted_run
from vlmlake.analysis.probes import FOLDS, correctness_probes, grouped_folds, out_of_fold
from vlmlake.analysis.samples import sample
from vlmlake.errors import VlmlakeError


def by_layer(rows, metric, position="prompt_last"):
    return {row["layer"]: row for row in rows if (row["metric"], row["position"]) == (metric, position)}


def test_the_signal_is_found_at_its_layer_and_nowhere_else():
    rows = correctness_probes(planted_run(signal_layer="block_1"))
    found = by_layer(rows, "probe")
    assert set(found) == set(LAYERS)
    # Two normals two standard deviations apart have AUROC 0.921.
    assert found["block_1"]["low"] < 0.921 < found["block_1"]["high"]
    for layer in ("embed", "block_0", "block_2"):
        assert found[layer]["low"] < 0.5 < found[layer]["high"]
    (nested,) = by_layer(rows, "probe_nested").values()
    assert nested["value"] == pytest.approx(found["block_1"]["value"])
    assert nested["note"] == "layers " + ", ".join(["block_1"] * FOLDS)


def test_an_answers_own_token_is_probed_apart_and_said_to_read_the_answer():
    rows = correctness_probes(planted_run(images=40, signal_layer="block_1"))
    found = by_layer(rows, "probe", "answer_0")
    assert set(found) == set(LAYERS)
    for row in found.values():
        assert row["note"] == "can read the answer itself"
        assert abs(row["value"] - 0.5) < 0.15
    (nested,) = by_layer(rows, "probe_nested", "answer_0").values()
    assert nested["note"].startswith("can read the answer itself; layers ")
    assert {row["position"] for row in rows if row["metric"].startswith("first_")} == {"prompt_last"}


def test_without_answer_tokens_only_the_prompt_is_probed():
    data = planted_run(images=30)
    data = data.assign_coords(answer_tokens=("example", np.zeros(180, int)))
    rows = correctness_probes(data)
    assert all(row["value"] is not None for row in rows if row["position"] == "prompt_last")
    (row,) = [row for row in rows if row["position"] == "answer_0"]
    assert row["value"] is None
    assert row["note"] == "0 of 0 answers are right: expected right and wrong ones"


def test_shuffled_labels_are_at_chance_even_where_the_signal_is():
    for row in by_layer(correctness_probes(planted_run(signal_layer="block_1")), "probe_shuffled").values():
        assert row["low"] < 0.5 < row["high"]


def test_the_nested_choice_among_noise_layers_is_not_optimistic():
    values = [
        by_layer(correctness_probes(planted_run(images=40, seed=seed)), "probe_nested")["chosen"]["value"]
        for seed in range(12)
    ]
    assert abs(np.mean(values) - 0.5) < 0.04


def test_baselines_are_scored_on_the_same_examples():
    rows = correctness_probes(planted_run(signal_layer="block_1"))
    for name in ("first_log_prob", "first_gap", "first_entropy"):
        (row,) = [row for row in rows if row["metric"] == name]
        assert row["n"] == by_layer(rows, "probe")["embed"]["n"]
        assert row["low"] < 0.5 < row["high"]


def test_folds_keep_the_questions_of_an_image_together():
    chosen = sample(planted_run())
    for train, test in grouped_folds(chosen.correct, chosen.images, FOLDS, seed=0):
        assert not set(chosen.images[train]) & set(chosen.images[test])
    covered = np.concatenate([test for _, test in grouped_folds(chosen.correct, chosen.images, FOLDS, seed=0)])
    assert sorted(covered) == list(range(len(chosen)))


def test_a_random_split_leaks_what_the_grouped_one_does_not():
    """Every image has its own mark and one fate for all its questions: only a split across images is honest."""
    chosen = sample(planted_run(images=60, hidden=48, image_effect=3.0))
    features = chosen.data["readout_states"].isel(layer=0, position=0).values
    leaky = list(StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(features, chosen.correct))
    grouped = grouped_folds(chosen.correct, chosen.images, FOLDS, seed=0)
    assert roc_auc_score(chosen.correct, out_of_fold(features, chosen.correct, leaky)) > 0.9
    assert roc_auc_score(chosen.correct, out_of_fold(features, chosen.correct, grouped)) < 0.65


def test_features_are_standardised_inside_the_fold():
    rng = np.random.default_rng(0)
    features, correct = rng.normal(size=(60, 4)) * [1, 100, 0.01, 1], (rng.random(60) < 0.5).astype(float)
    folds = [(np.arange(40), np.arange(40, 60)), (np.arange(20, 60), np.arange(20))]
    found = out_of_fold(features, correct, folds)
    for train, test in folds:
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(features[train], correct[train])
        np.testing.assert_allclose(found[test], model.predict_proba(features[test])[:, 1])


def test_the_same_seed_gives_the_same_rows():
    data = planted_run(images=30)
    assert correctness_probes(data, seed=1) == correctness_probes(data, seed=1)


def test_every_row_carries_its_passport():
    for row in correctness_probes(planted_run(images=30)):
        assert (row["run"], row["dataset"], row["split"], row["rule"]) == (
            "planted-00000000",
            "planted",
            "all",
            "pope_official",
        )
        assert (row["n"], row["n_items"], row["n_images"]) == (180, 180, 30)
        assert row["position"] in ("prompt_last", "answer_0")
        assert 0 < row["base_rate"] < 1


def test_what_cannot_be_probed_is_refused_by_name():
    with pytest.raises(VlmlakeError, match="4 images cannot be cut into 5 folds"):
        correctness_probes(planted_run(images=4))
    rarely = planted_run(images=10)
    answers = rarely["gold"].values.copy()
    answers[:3] = np.where(answers[:3] == "yes", "no", "yes")
    with pytest.raises(VlmlakeError, match="3 answers of one class cannot be spread over 5 folds: too few errors"):
        correctness_probes(rarely.assign_coords(answer=("example", answers)))
    always = planted_run(images=10)
    always = always.assign_coords(answer=("example", always["gold"].values))
    with pytest.raises(VlmlakeError, match="60 of 60 answers are right"):
        correctness_probes(always)


def test_a_layer_without_variation_gets_a_reason_instead_of_one_half():
    data = planted_run(images=30, signal_layer="block_1").compute()
    data["readout_states"].values[:, 0, 0] = 1.5
    rows = correctness_probes(data.chunk())
    embed = by_layer(rows, "probe")["embed"]
    assert embed["value"] is None
    assert embed["note"] == "readout states at embed are the same for all 180 examples"
    assert set(by_layer(rows, "probe_shuffled")) == set(LAYERS) - {"embed"}
