import numpy as np
import pytest
import xarray as xr

from tests.analysis.planted import PATCHES, planted_run
from tests.analysis.planted_probes import planted_states
from vlmlake.analysis.population import population
from vlmlake.analysis.probes.attention_probe import attention_probe, flat_maps
from vlmlake.analysis.probes.fusion import fusion
from vlmlake.analysis.probes.probes import ProbeParameters, probes
from vlmlake.errors import VlmlakeError


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


def test_features_without_a_number_are_left_out_by_name():
    data = planted_states(images=40)
    metrics = metrics_of(data)
    metrics["self_consistency"][3] = np.nan
    note = pooled(fusion(data, metrics=metrics))["note"]
    assert note == "11 features; no number for some example: self_consistency"


def test_the_probes_out_of_fold_probability_adds_nothing_where_there_is_nothing():
    """Stacked on the probe's own folds the fusion is not optimistic."""
    only, values = ProbeParameters(positions=("prompt_last",)), []
    for seed in range(12):
        data = planted_states(images=30, blocks=1, seed=seed)
        metrics = probes(data, seed=seed, parameters=only).examples
        values.append(pooled(fusion(data, seed=seed, metrics=metrics))["value"])
    assert abs(np.mean(values) - 0.5) < 0.04


def test_the_probes_probability_is_used():
    data = planted_states(images=40, signal_layer="block_1")
    found = probes(data, parameters=ProbeParameters(positions=("prompt_last",))).examples
    row = pooled(fusion(data, metrics=found))
    assert row["low"] > 0.8
    assert row["note"] == "4 features"


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


def test_maps_of_ragged_images_are_padded_and_missing_or_equal_ones_refused():
    maps = np.random.default_rng(0).random((5, 2, PATCHES))
    maps[2, :, 10:] = np.nan
    maps[:, :, 15] = np.nan
    flat = flat_maps(maps)
    assert flat.shape == (5, 2 * (PATCHES - 1))
    assert (flat[2].reshape(2, -1)[:, 10:] == 0).all()
    with pytest.raises(VlmlakeError, match="1 of 5 examples have no attention map at prompt_last"):
        flat_maps(np.where(np.arange(5)[:, None, None] == 1, np.nan, maps))
    with pytest.raises(VlmlakeError, match="the same for all 5 examples"):
        flat_maps(np.ones((5, 2, 3)))
