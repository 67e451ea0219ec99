import numpy as np
import pytest
import xarray as xr

from tests.analysis.planted import PATCHES, planted_run
from tests.analysis.planted_probes import planted_states
from vlmlake.analysis.findings import examples_of, metric_rows
from vlmlake.analysis.parameters import parameters_of
from vlmlake.analysis.population import population
from vlmlake.analysis.probes.attention_probe import attention_probe, flat_maps
from vlmlake.analysis.probes.fusion import COORDINATES, fusion
from vlmlake.analysis.probes.one_probe import FOLDS, INNER_FOLDS, FoldParameters
from vlmlake.analysis.probes.out_of_fold import Design, design, out_of_fold
from vlmlake.analysis.probes.probes import ProbeParameters, probes, without_fold
from vlmlake.errors import VlmlakeError
from vlmlake.store_schema.schema import ROLES

PROMPT_LAST = ProbeParameters(positions=("prompt_last",))


def metrics_of(data, informative=None, **more):
    """Metrics as other analyses leave them; one of them is told the verdict."""
    rng = np.random.default_rng(0)
    n, layers = data.sizes["example"], data["layer"].values[1:]
    right = np.zeros(n)
    chosen = population(data)
    right[chosen.places] = chosen.correct
    by_layer = ("example", "position", "layer")
    values = {
        "entropy_normalised": (by_layer, rng.normal(size=(n, 2, len(layers)))),
        "clusters_dbscan_p90": (by_layer, rng.integers(0, 5, (n, 2, len(layers))).astype(float)),
        "margin_pred": (("example", "layer"), rng.normal(size=(n, len(layers)))),
        "margin_gold": (("example", "layer"), np.repeat(right[:, None], len(layers), 1)),
        "yes_minus_no": (("example", "layer"), rng.normal(size=(n, len(layers)))),
        "self_consistency": (("example",), rng.normal(size=n)),
        **more,
    }
    if informative == "yes_minus_no":
        values[informative] = (
            ("example", "layer"),
            rng.choice([-1, 1], (n, 1)) * (1 + right[:, None] + 0 * layers_of(n, layers, rng)),
        )
    elif informative:
        dims, found = values[informative]
        values[informative] = dims, found + 2 * right.reshape(-1, *[1] * (found.ndim - 1))
    return xr.Dataset(
        values, {"example": data["example"].values, "position": ["answer", "prompt_last"], "layer": layers}
    )


def layers_of(n, layers, rng):
    return rng.random((n, len(layers)))


def pooled(found, metric="fusion"):
    return found.row(metric=metric, statistic="auroc", split="all")


@pytest.mark.parametrize(
    "informative", ["entropy_normalised", "clusters_dbscan_p90", "margin_pred", "yes_minus_no", "self_consistency"]
)
def test_what_one_metric_knows_the_fusion_knows(informative):
    data = planted_states(images=40)
    row = pooled(fusion(data, metrics=metrics_of(data, informative)))
    assert row["low"] > 0.7
    # 3 coordinates, mean and last of two metrics, three margins, one magnitude, self-consistency.
    assert row["note"] == "12 features"


def test_what_only_the_gold_answer_tells_is_not_used():
    values = []
    for seed in range(6):
        data = planted_states(images=40, seed=seed)
        values.append(pooled(fusion(data, metrics=metrics_of(data)))["value"])
    assert abs(np.mean(values) - 0.5) < 0.05


def test_without_metrics_the_outputs_own_numbers_are_fused_and_the_note_says_so():
    data = planted_states(images=40)
    data["first_gap"] = ("example", np.ones(240))
    found = fusion(data.set_coords("first_gap"))
    note = pooled(found)["note"]
    assert note == "2 features; of the output alone: no metrics of other analyses were given; constant: first_gap"
    values = found.examples["fusion"].values
    assert ((values > 0) & (values < 1)).all()


def test_in_a_split_the_fusion_is_said_to_be_trained_on_all_and_the_output_is_not():
    found = fusion(planted_states(images=30, splits=2))
    notes = {row["metric"]: row["note"] for row in found.rows(split="split_1").iter_rows(named=True)}
    assert notes["first_log_prob"] is None
    assert notes["fusion"].endswith("; trained on all splits")
    assert notes["fusion_gain"] == "over first_log_prob; trained on all splits"


def test_features_without_a_number_are_left_out_by_name():
    data = planted_states(images=40)
    metrics = metrics_of(data)
    metrics["self_consistency"][3] = np.nan
    note = pooled(fusion(data, metrics=metrics))["note"]
    assert note == "11 features; no number for some example: self_consistency"


def without_outputs(data):
    """The same run with coordinates that tell nothing, so that a fusion has the metrics alone."""
    return data.assign_coords({name: ("example", np.ones(data.sizes["example"])) for name in COORDINATES})


def test_the_probes_probability_alone_adds_nothing_where_there_is_nothing():
    """Trained on probabilities of models that know the tested labels, the mean is 0.54."""
    values = []
    for seed in range(40):
        data = without_outputs(planted_states(images=40, blocks=1, hidden=8, seed=seed).isel(layer=[0]))
        metrics = probes(data, seed=seed, parameters=PROMPT_LAST).examples
        values.append(pooled(fusion(data, seed=seed, metrics=metrics))["value"])
    assert abs(np.mean(values) - 0.5) < 0.02


def test_what_a_fold_of_the_fusion_trains_on_knows_no_label_that_it_tests():
    data = without_outputs(planted_states(images=20, blocks=1)).isel(layer=[1])
    states, chosen = data["readout_states"].isel(layer=0, position=0).values, population(data)
    plan = design(chosen.correct, chosen.images, FOLDS, INNER_FOLDS, seed=0)
    found = probes(data, parameters=PROMPT_LAST).examples.sel(position="prompt_last")
    for fold, (train, test) in enumerate(plan.folds):
        turned = chosen.correct.copy()
        turned[test] = 1 - turned[test]
        otherwise = out_of_fold(states, Design(turned, plan.folds, plan.inner))
        given, inside = found[without_fold(fold)].values, otherwise.inner_probabilities[fold]
        # The solver stops all problems of a plan together: equal to its tolerance.
        np.testing.assert_allclose(given, inside, atol=2e-4)
        np.testing.assert_allclose(found["probe_nested"].values[test], otherwise.probabilities[test], atol=2e-4)
        assert np.flatnonzero(np.isfinite(given)).tolist() == train.tolist()
        assert abs(found["probe_nested"].values[train] - otherwise.probabilities[train]).max() > 0.02


def test_each_fold_of_the_fusion_has_the_probe_without_it(monkeypatch):
    data = without_outputs(planted_states(images=20, blocks=1))
    found = probes(data, parameters=PROMPT_LAST).examples.sel(position="prompt_last")
    solved = []
    monkeypatch.setitem(
        fusion.__globals__,
        "one_probe",
        lambda data, chosen, features, metric, plan, *_: solved.append((features, plan)),
    )
    fusion(data, metrics=found)
    ((features, plan),) = solved
    for fold, (train, test) in enumerate(plan.folds):
        np.testing.assert_array_equal(features[fold, train, 0], found[without_fold(fold)].values[train])
        np.testing.assert_array_equal(features[fold, test, 0], found["probe_nested"].values[test])


def test_the_probes_probability_is_used():
    data = planted_states(images=40, signal_layer="block_1")
    found = probes(data, parameters=PROMPT_LAST).examples
    row = pooled(fusion(data, metrics=found))
    assert row["low"] > 0.8
    assert row["note"] == "4 features"


def test_the_probes_probability_comes_through_the_lake():
    data = planted_states(images=30, signal_layer="block_1")
    found = probes(data).examples
    kept = examples_of(metric_rows(found))
    assert fusion(data, metrics=kept).table.equals(fusion(data, metrics=found).table)
    assert set(kept[without_fold(0)].dropna("position", how="all")["position"].values) == {"prompt_last"}


@pytest.mark.parametrize(
    ("seed", "folds"), [(1, FoldParameters()), (0, FoldParameters(folds=4)), (0, FoldParameters(folds=6))]
)
def test_a_probe_on_other_folds_is_left_out_by_name(seed, folds):
    data = planted_states(images=40, signal_layer="block_1")
    row = pooled(fusion(data, seed=seed, metrics=probes(data, parameters=PROMPT_LAST).examples, parameters=folds))
    assert row["note"] == (
        f"3 features; without probe_nested: its folds are not the {folds.folds} of this fusion, whose tested labels it "
        "may have seen"
    )
    assert row["low"] < 0.5 < row["high"]


def test_a_probe_that_does_not_tell_what_it_is_without_each_fold_is_left_out_by_name():
    data = planted_states(images=40, signal_layer="block_1")
    found = probes(data, parameters=PROMPT_LAST).examples
    row = pooled(fusion(data, metrics=found.drop_vars(without_fold(2))))
    assert row["note"].startswith("3 features; without probe_nested: ")


def test_a_probe_of_other_inner_folds_is_used():
    data = planted_states(images=40, signal_layer="block_1")
    found = probes(data, parameters=ProbeParameters(positions=("prompt_last",), inner_folds=3)).examples
    assert pooled(fusion(data, metrics=found))["note"] == "4 features"


def test_the_attention_probe_finds_a_patch_that_right_answers_look_at_and_nothing_in_noise():
    data = planted_run(images=60).compute()
    right = np.flatnonzero(data["answer"].values == data["gold"].values)
    looking = data["attention"].values[right, 2, :, 3]
    data["attention"].values[right, 2, :, 3] = 0.7 * looking + 0.3 * (np.arange(looking.shape[-1]) == 6)
    sharp = attention_probe(data.chunk())
    assert pooled(sharp, "attention_probe")["low"] > 0.8
    noise = [
        pooled(attention_probe(planted_run(images=40, seed=seed)), "attention_probe")["value"] for seed in range(6)
    ]
    assert abs(np.mean(noise) - 0.5) < 0.05
    assert sharp.auroc() == pooled(sharp, "attention_probe")["value"]
    assert len(sharp.plot().get_legend_handles_labels()[1]) == 2


def test_the_attention_probes_own_tolerance_of_row_sums_is_in_force():
    data = planted_run(images=20).compute()
    data["attention"].values[7, 2, :, 3] *= 1.02
    with pytest.raises(VlmlakeError, match="attention rows of example planted/random/7 at block_1 do not sum to 1"):
        attention_probe(data)
    given = parameters_of(["attention_probe.row_sum_tolerance=0.05"])["attention_probe"]
    assert attention_probe(data, parameters=given).rows(metric="attention_probe")["value"].null_count() == 0


@pytest.mark.parametrize("tolerance", ["0", "-0.1", "1"])
def test_a_tolerance_that_is_none_is_refused_at_the_door(tolerance):
    with pytest.raises(VlmlakeError, match=r"row_sum_tolerance is .*, expected above 0 and below 1"):
        parameters_of([f"attention_probe.row_sum_tolerance={tolerance}"])


def test_an_example_without_a_map_is_refused_by_name():
    blind = planted_run(images=20).compute()
    blind["attention"].values[7, 2, :, 3] = np.arange(blind.sizes["key"]) == 0
    with pytest.raises(VlmlakeError, match="example planted/random/7 at block_1 give the image nothing at all"):
        attention_probe(blind)
    without = planted_run(images=20).compute()
    without["prefix_token_role"].values[2] = ROLES.index("system")
    with pytest.raises(VlmlakeError, match="example planted/random/12 has no image tokens"):
        attention_probe(without)


def test_maps_of_ragged_images_are_padded_and_equal_ones_refused():
    maps = np.random.default_rng(0).random((5, 2, PATCHES))
    maps[2, :, 10:] = 0
    maps[:, :, 15] = 0
    flat = flat_maps(maps)
    assert flat.shape == (5, 2 * (PATCHES - 1))
    assert (flat[2].reshape(2, -1)[:, 10:] == 0).all()
    with pytest.raises(VlmlakeError, match="the same for all 5 examples"):
        flat_maps(np.ones((5, 2, 3)))
