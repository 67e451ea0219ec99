from functools import partial

import numpy as np
import polars as pl
import pytest
import xarray as xr
from scipy import stats

from tests.analysis.planted_attention import READOUT, WHOLE, planted_attention
from vlmlake.analysis.attention import AttentionParameters, attention
from vlmlake.analysis.attention.layers import entropy_change, profile
from vlmlake.analysis.attention.maps import EXAMPLE_METRICS
from vlmlake.analysis.attention.updates import image_updates
from vlmlake.analysis.statistics.bootstrap import bootstrapped_together
from vlmlake.analysis.statistics.correlation import fisher_interval, point_biserial
from vlmlake.errors import VlmlakeError

SIZES = [
    {"images": 60, "questions": 4, "grid": (4, 5)},
    {"images": 30, "questions": 6, "grid": (6, 6), "heads": 4, "ragged": True},
    {"images": 100, "questions": 2, "grid": (3, 4), "blocks": 4, "array": READOUT},
]
ids = ["small", "ragged", "readout"]


def correlations(found, **wanted):
    return found.rows(statistic="point_biserial", split="all", metric="entropy_normalised", **wanted)


@pytest.mark.parametrize("size", SIZES, ids=ids)
def test_sharpness_at_one_block_is_found_there_and_nowhere_else(size):
    found = attention(planted_attention(**size, sharp=(1, None), strength=1.5, seed=1))
    for position in ("answer", "prompt_last"):
        rows = correlations(found, position=position).filter(pl.col("head").is_null() & (pl.col("layer") != "mean"))
        told = rows.filter(pl.col("p_holm") < 0.05)
        assert told["layer"].to_list() == ["block_1"]
        assert (told["high"] < -0.2).all()


@pytest.mark.parametrize("size", SIZES, ids=ids)
def test_sharpness_of_one_head_is_found_at_that_head(size):
    found = attention(planted_attention(**size, sharp=(2, 1), strength=2.0, seed=2))
    rows = correlations(found).filter(pl.col("head").is_not_null())
    told = rows.filter(pl.col("p_holm") < 0.01)
    assert set(told.select("layer", "head").iter_rows()) == {("block_2", 1)}
    assert told["position"].to_list() == ["answer", "prompt_last"]


@pytest.mark.parametrize("size", SIZES, ids=ids)
@pytest.mark.parametrize("seed", range(2))
def test_where_nothing_is_nothing_is_found(size, seed):
    table = attention(planted_attention(**size, seed=seed)).table
    assert table.filter(pl.col("split") == "all")["p_holm"].min() > 0.05


@pytest.mark.parametrize("images", [40, 150])
def test_the_interval_covers_the_true_correlation_at_its_nominal_rate_and_one_blind_to_images_does_not(images):
    """Entropy and correctness both have an image's own share; their correlation is known in closed form."""
    right, effect, questions, shared = 0.7, 0.5, 6, 0.6
    truth = effect * np.sqrt(right * (1 - right)) / np.sqrt(effect**2 * right * (1 - right) + 1)
    rng = np.random.default_rng(images)
    image = np.repeat(np.arange(images), questions)
    clustered, blind = 0, 0
    for _ in range(200):
        of_image, own = rng.normal(size=(2, images)), rng.normal(size=(2, len(image)))
        leaning, noise = np.sqrt(shared) * of_image[:, image] + np.sqrt(1 - shared) * own
        correct = (leaning < stats.norm.ppf(right)).astype(float)
        values = effect * correct + noise
        found = point_biserial(values, correct, image, "entropy")
        low, high = fisher_interval(found.value, len(image))
        clustered += found.low <= truth <= found.high
        blind += low <= truth <= high
    assert 0.90 <= clustered / 200 <= 0.99
    assert blind / 200 < 0.85


PROFILE = np.array([0.3, 0.0, -2.5, 0.02, -0.05, 0.04, 0.0, -0.3, 0.05, 1.0])
"""Mean dH_s at blocks 1 to 10, in nats: falls most at block 3, rests over blocks 4 to 7, ends with +1."""


def test_lock_layer_plateau_and_late_diffusion_of_a_known_profile():
    change = np.tile(PROFILE, (20, 1))
    found = profile(np.ones((1, 20)), change, np.arange(1, 11), threshold=0.1)
    np.testing.assert_allclose(found, [[3, -2.5, 4, 4, 1.0]])


def test_a_plateau_does_not_reach_over_a_block_that_is_not_kept():
    numbers = np.array([1, 2, 3, 6, 7])
    found = profile(np.ones((1, 1)), np.array([[0.01, 0.01, 0.5, 0.01, 0.01]]), numbers, threshold=0.1)
    np.testing.assert_allclose(found[0, 2:4], [1, 2])
    found = profile(np.ones((1, 1)), np.full((1, 5), 0.01), numbers, threshold=0.1)
    np.testing.assert_allclose(found[0, 2:4], [1, 3])


def test_no_plateau_has_length_zero_and_no_start():
    found = profile(np.ones((1, 1)), np.array([[0.5, -0.5]]), np.array([1, 2]), threshold=0.1)
    assert np.isnan(found[0, 2])
    assert found[0, 3] == 0


def test_change_is_from_the_block_before_where_it_is_kept():
    found = entropy_change(np.array([[3.0, 2.0, 2.5, 4.0]]), ["block_0", "block_1", "block_4", "block_5"])
    np.testing.assert_array_equal(found, [[np.nan, -1.0, np.nan, 1.5]])


@pytest.mark.parametrize("images", [40, 100])
def test_intervals_of_the_profile_cover_it_at_the_nominal_rate(images):
    rng = np.random.default_rng(images)
    image = np.repeat(np.arange(images), 3)
    truth = profile(np.ones((1, 1)), PROFILE[None], np.arange(1, 11), 0.1)[0]
    hits = np.zeros(len(truth))
    for seed in range(200):
        change = PROFILE + 0.1 * rng.normal(size=(images, 10))[image] + 0.1 * rng.normal(size=(len(image), 10))
        statistic = partial(profile, change=change, numbers=np.arange(1, 11), threshold=0.1)
        found = bootstrapped_together(statistic, image, seed, resamples=300)
        hits += [one.low <= wanted <= one.high for one, wanted in zip(found, truth, strict=True)]
    lock, size, start, length, late = hits / 200
    assert 0.90 <= size <= 0.99
    assert 0.90 <= late <= 0.99
    assert min(lock, start, length) >= 0.95  # of whole numbers, far from the next: they are hit every time


@pytest.mark.parametrize("array", [WHOLE, READOUT])
def test_a_model_that_locks_on_at_one_block_is_found_to(array):
    sharpness = (0.5, 0.5, 3.0, 3.0, 3.0, 1.0)
    found = attention(planted_attention(images=40, blocks=6, grid=(5, 5), sharpness=sharpness, array=array))
    lock = found.row(metric="lock_layer", position="answer")
    assert (lock["low"], lock["value"], lock["high"]) == (2, 2, 2)
    assert found.row(metric="lock_size", position="answer")["high"] < -0.5
    assert found.row(metric="plateau_start", position="answer")["value"] == 3
    assert found.row(metric="plateau_length", position="answer")["value"] == 2
    assert found.row(metric="late_diffusion", position="answer")["low"] > 0.3


def test_the_threshold_of_the_plateau_is_a_parameter():
    data = planted_attention(images=20, sharpness=(0.5, 3.0, 1.0))
    found = attention(data)
    row = found.row(metric="plateau_start", position="answer")
    assert row["value"] is None
    assert row["note"] == "no block changes mean entropy by less than 0.1 nats, or few resamples do"
    wide = attention(data, parameters=AttentionParameters(plateau_threshold=5))
    assert wide.row(metric="plateau_length", position="answer")["value"] == 2


def test_there_is_a_row_for_every_metric_split_query_block_and_head():
    found = attention(planted_attention(images=20))
    whole = found.table.filter(pl.col("head").is_null())
    counts = whole.filter(pl.col("statistic") == "mean").group_by("metric").len()
    assert dict(counts.iter_rows()) == {
        **dict.fromkeys(EXAMPLE_METRICS, 3 * 2 * 4),
        "entropy_change": 3 * 2 * 3,
        "image_update": 3 * 4,
    }
    heads = found.table.filter(pl.col("head").is_not_null()).group_by("metric", "statistic").len()
    assert set(heads.iter_rows()) == {
        ("entropy_normalised", "mean", 12),
        ("entropy_normalised", "point_biserial", 12),
        ("image_mass", "mean", 12),
    }
    assert set(whole.filter(pl.col("split") == "all")["n"]) == {80}
    assert set(whole.filter(pl.col("split") == "random")["n"]) == {40}


def test_values_are_those_of_the_examples():
    data = planted_attention(images=20, ragged=True)
    found = attention(data)
    gini = found.examples["gini"].sel(position="answer", layer="block_1")
    assert gini.dims == ("example",)
    assert gini.dtype == np.float64
    assert found.row(metric="gini", statistic="mean", split="all", position="answer", layer="block_1")[
        "value"
    ] == pytest.approx(float(gini.mean()))
    mean = found.examples["entropy"].sel(position="prompt_last").mean("layer")
    right = (data["answer"] == data["gold"]).values.astype(float)
    row = found.row(metric="entropy", statistic="point_biserial", split="all", position="prompt_last", layer="mean")
    assert row["value"] == pytest.approx(stats.pearsonr(mean, right).statistic)


def test_updates_are_those_of_each_examples_own_prefix():
    data = planted_attention(images=6)
    found = attention(data)
    wanted = data["image_update"].values[:, 1:][data["prefix_of"].values - 10]
    np.testing.assert_allclose(found.examples["image_update"], wanted)
    assert found.examples["image_update"].dims == ("example", "layer")
    assert "image_update" not in attention(data.drop_vars("image_update")).examples


@pytest.mark.parametrize("array", [WHOLE, READOUT])
def test_an_example_whose_prefix_is_not_there_is_named_and_gets_no_others(array):
    data = planted_attention(4, 2, array=array)
    less = data.isel(prefix=[0, 2, 3])
    message = "the prefixes of 2 of 8 examples are not in the data: that of planted/random/2 is 11"
    with pytest.raises(VlmlakeError, match=message):
        attention(less)
    with pytest.raises(VlmlakeError, match=message):
        image_updates(less, ["block_0"])
    without = less.isel(example=[0, 1, 4, 5, 6, 7])
    np.testing.assert_array_equal(
        image_updates(without, ["block_1"]), image_updates(data, ["block_1"])[[0, 1, 4, 5, 6, 7]]
    )


def test_examples_without_an_answer_token_are_left_out_and_counted():
    data = planted_attention(images=20).compute()
    data["answer_tokens"].values[:7] = 0
    found = attention(data)
    asked = {"metric": "entropy_normalised", "statistic": "mean", "split": "all", "layer": "mean"}
    row = found.row(**asked, position="answer")
    assert (row["n"], row["note"]) == (73, "7 without an answer token")
    assert found.row(**asked, position="prompt_last")["n"] == 80
    data["answer_tokens"].values[:] = 0
    (row,) = attention(data).rows(position="answer", split="all").iter_rows(named=True)
    assert (row["value"], row["note"]) == (None, "no labelled example has an answer token")


def test_a_constant_column_gets_no_correlation_but_a_reason():
    data = planted_attention(images=20).compute()
    data["attention"].values[:, 1, :, 4, :-1] = 0
    data["attention"].values[:, 1, :, 4, 9] = 1
    found = attention(data)
    wanted = {"metric": "entropy_normalised", "split": "all", "position": "answer", "layer": "block_0", "head": 1}
    row = found.row(**wanted, statistic="point_biserial")
    assert row["value"] is None
    assert row["note"] == (
        "entropy_normalised of head 1 at block_0 is constant over all 80 examples: it has no correlation with anything"
    )
    assert found.row(**wanted, statistic="mean")["value"] == pytest.approx(0, abs=1e-6)
    clusters = found.rows(metric="clusters_dbscan_p90", statistic="point_biserial", position="answer", layer="block_0")
    assert "clusters_dbscan_p90 at block_0 is constant" in clusters["note"][0]


def test_one_class_has_means_but_no_correlations():
    data = planted_attention(images=10)
    data = data.assign_coords(answer=("example", data["gold"].values))
    found = attention(data)
    correlated = found.rows(statistic="point_biserial")
    assert correlated["value"].null_count() == correlated.height
    assert "40 of 40 answers are right" in correlated["note"][0]
    assert found.rows(statistic="mean")["value"].null_count() == 0


def test_a_split_without_labels_is_left_out():
    data = planted_attention(images=10)
    gold = np.where(data["split"] == "random", None, data["gold"])
    found = attention(data.assign_coords(gold=("example", gold)))
    assert set(found.table["split"]) == {"all", "adversarial"}
    assert found.examples.sizes["example"] == 40
    with pytest.raises(VlmlakeError, match="has no labelled examples of split all"):
        attention(data.assign_coords(gold=("example", np.full(40, None))))


def test_a_run_without_attention_is_named():
    with pytest.raises(VlmlakeError, match="keeps no attention and no readout_attention"):
        attention(planted_attention(images=4).drop_vars("attention"))


def test_a_clusters_workers_find_the_same_numbers():
    distributed = pytest.importorskip("distributed")
    data = planted_attention(images=15, ragged=True)
    wanted = attention(data)
    with distributed.Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=":0"):
        found = attention(data)
    xr.testing.assert_identical(found.examples, wanted.examples)
    assert found.table.equals(wanted.table)


def test_the_plot_has_a_line_for_each_kind_of_query():
    found = attention(planted_attention(images=10))
    axes = found.plot()
    assert [line.get_label() for line in axes.get_lines()] == ["answer", "prompt_last"]
    np.testing.assert_array_equal(axes.get_lines()[0].get_xdata(), [0, 1, 2])


def test_the_result_as_xarray_has_the_statistics_by_position_layer_and_head():
    whole = attention(planted_attention(images=10)).to_xarray()
    assert whole["gini_mean"].sel(split="all", position="answer", layer="block_1", bound="value").ndim == 0
    assert whole["image_mass_mean"].dims == ("bound", "split", "position", "layer")
    assert whole["image_mass_mean"].notnull().all()
    assert (
        whole["image_mass_mean_of_heads"].sel(split="all", head=1, position="answer", layer="block_1").notnull().all()
    )
