import json

import numpy as np
import pytest
import xarray as xr

from tests.analysis.planted_margins import planted_margins
from tests.analysis.test_margins_lens import naive_lens
from vlmlake.analysis.margins.curves import ROUNDING, Curve
from vlmlake.analysis.margins.lens import FIELDS
from vlmlake.analysis.margins.margins import MarginParameters, margins
from vlmlake.analysis.margins.readouts import Readouts
from vlmlake.analysis.parameters import parameters_of
from vlmlake.analysis.population import population
from vlmlake.analysis.statistics.bootstrap import image_weights
from vlmlake.analysis.statistics.correlation import point_biserial
from vlmlake.analysis.statistics.means import mean_difference
from vlmlake.answers.spellings import MODAL, Vocabulary
from vlmlake.errors import VlmlakeError
from vlmlake.store_schema.lake import open_lake


@pytest.fixture(scope="module")
def found():
    return margins(planted_margins())


def naive(data: xr.Dataset, states: xr.DataArray) -> dict[str, np.ndarray]:
    """FIELDS [n, layer] of the definitions, on all logits at once."""
    vocabulary = Vocabulary.of(data["token_text"].values.tolist())
    gold = vocabulary.golds(data["gold"].values.tolist())
    said = data["logits"].values[:, 0].argmax(axis=1)
    words = (vocabulary.word("yes"), vocabulary.word("no"))
    scale, unembedding = data["final_norm"].values, data["unembedding"].values
    layers = [
        naive_lens(
            states.isel(layer=layer).values, scale, data.attrs["final_norm_epsilon"], unembedding, gold, said, words
        )
        for layer in range(data.sizes["layer"])
    ]
    return dict(zip(FIELDS, np.stack(layers, axis=-1), strict=True))


def test_the_numbers_of_every_example_are_those_of_the_definitions():
    data = planted_margins(images=20)
    found = margins(data).examples
    seen, blank = naive(data, data["readout_states"].isel(position=0)), naive(data, data["blank_states"])
    for name in FIELDS[:6]:
        np.testing.assert_allclose(found[name], seen[name], atol=1e-5, err_msg=name)
    np.testing.assert_allclose(found["margin_gold_blank"], blank["margin_gold"], atol=1e-5)
    np.testing.assert_allclose(found["image_effect"], seen["margin_gold"] - blank["margin_gold"], atol=2e-5)
    assert found["margin_gold"].dims == ("example", "layer")
    assert {values.dtype for values in found.data_vars.values()} == {np.dtype(float)}


@pytest.mark.parametrize(("images", "signal_block"), [(30, 1), (60, 3), (200, 0)])
def test_a_planted_separation_is_found_at_its_block_and_its_interval_covers_it(images, signal_block):
    result = margins(planted_margins(images=images, signal_block=signal_block, seed=images))
    for metric in ("separation_onset", "image_effect_peak", "zero_crossing"):
        row = result.row(metric=metric, statistic="layer", split="all")
        assert row["low"] <= signal_block <= row["high"], metric
        assert row["value"] == signal_block
    size = result.row(metric="separation_peak", statistic="size", split="all")
    apart = result.row(metric="margin_gold", statistic="mean_difference", split="all", layer=f"block_{signal_block}")
    assert size["low"] <= apart["value"] <= size["high"]
    right = result.row(metric="margin_gold_right", statistic="mean", split="all", layer=f"block_{signal_block}")
    wrong = result.row(metric="margin_gold_wrong", statistic="mean", split="all", layer=f"block_{signal_block}")
    assert right["low"] > 0 > wrong["high"]
    assert right["value"] - wrong["value"] == pytest.approx(apart["value"])


def test_an_onset_that_some_resamples_lack_says_in_how_many():
    data = planted_margins(images=30, strength=0.6, seed=2)
    apart = margins(data).row(metric="separation_peak", statistic="size", split="all")["value"]
    barely = margins(data, parameters=MarginParameters(threshold=apart - 0.05))
    row = barely.row(metric="separation_onset", split="all")
    assert row["value"] is not None
    assert row["note"].startswith(f"threshold {apart - 0.05:g}; none in ")


@pytest.mark.parametrize("questions", [4, 40])
def test_the_share_of_resamples_without_a_number_is_that_of_all_of_them(questions):
    data = planted_margins(images=60, questions=questions)
    chosen = population(data)
    curve = Curve("column", chosen, np.ones((len(chosen), 1)), ["block_0"], "without")
    images = np.unique(chosen.images, return_inverse=True)[1]

    def unless_often_drawn(weights):
        """No number where one image is drawn four times or more, as in a few of the resamples."""
        return np.where(weights[:, images == 7].sum(axis=1) >= 4 * questions, np.nan, 1.0)

    true = np.isnan(unless_often_drawn(image_weights(curve.images, 0))).mean()
    row = curve.derived("column", "layer", unless_often_drawn, 0)
    assert 0 < true < 0.1
    assert row["note"] == f"none in {true:.1%} of the resamples"


def test_examples_commit_at_the_block_that_decides(found):
    commit = found.examples["commit_layer"]
    row = found.row(metric="commit_layer_right", statistic="mean", split="all")
    assert (commit == 2).mean() > 0.6
    assert row["layer"] is None
    assert 1.5 < row["value"] <= 2


def test_nothing_is_found_where_answers_have_nothing_to_do_with_the_residual_stream():
    result = margins(planted_margins(signal_block=None, seed=7))
    onset = result.row(metric="separation_onset", statistic="layer", split="all")
    assert onset["value"] is None
    assert "no value" in onset["note"]
    rows = result.rows(metric="margin_gold", statistic="point_biserial", split="all")
    assert rows.height == 6
    assert (rows["p_holm"] > 0.05).all()


def test_intervals_of_shuffled_correctness_cover_zero_at_their_nominal_rate():
    """Correctness drawn anew for every image, beside true margins."""
    data = planted_margins(images=80, questions=3)
    column = margins(data).examples["margin_gold"].values[:, 3]
    images = np.repeat(np.arange(80), 3)
    rng = np.random.default_rng(0)
    hits = np.zeros(2)
    for _ in range(200):
        correct = (rng.random(240) < 0.7).astype(float)
        one = point_biserial(column, correct, images, "margin_gold")
        two = mean_difference(column, correct, images, "margin_gold")
        hits += one.low <= 0 <= one.high, two.low <= 0 <= two.high
    assert (hits / 200 >= 0.90).all()
    assert (hits / 200 <= 0.99).all()


def test_what_knows_the_gold_answer_says_so(found):
    notes = found.rows(metric="margin_gold", statistic="auroc", split="all")["note"].fill_null("")
    assert notes.str.contains("knows the gold answer").all()
    assert notes.str.contains("the one word yes or no is right").all()
    assert found.rows(metric="margin_pred", statistic="auroc", split="all")["note"].null_count() == 6


def test_of_golds_of_several_words_the_sign_of_the_margin_is_not_said_to_be_correctness():
    data = planted_margins(images=10)
    longer = np.where(data["gold"] == "yes", "red circle", "no")
    result = margins(data.assign_coords(gold=("example", longer)), rule="exact")
    notes = result.rows(metric="margin_gold", statistic="auroc", split="all")["note"].fill_null("")
    assert notes.str.contains("knows the gold answer's first token").all()
    assert not notes.str.contains("is right").any()


def test_ten_annotators_golds_are_read_as_the_modal_answer_and_notes_say_so():
    data = planted_margins(images=20)
    ten = [json.dumps(["red", *[gold] * 6, *["red"] * 3]) for gold in data["gold"].values]
    plain, annotated = margins(data), margins(data.assign_coords(gold=("example", ten)), rule="vqa_soft")
    xr.testing.assert_allclose(annotated.examples, plain.examples)
    told = {
        metric: annotated.rows(metric=metric, split="all")["note"].fill_null("")
        for metric in ("margin_gold", "margin_pred")
    }
    assert told["margin_gold"].str.contains(MODAL, literal=True).all()
    assert not told["margin_gold"].str.contains("is right").any()
    assert not told["margin_pred"].str.contains(MODAL, literal=True).any()
    assert MODAL in annotated.row(metric="commit_layer", split="all")["note"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("margins.threshold=NaN", "NaN is no float"),
        ("margins.threshold=Infinity", "Infinity is no float"),
        ("margins.last_block=last", "margins.last_block is last, expected a block's label like block_31"),
        ("margins.last_block=31", "margins.last_block is 31, expected a block's label like block_31"),
        ("margins.last_block=embed", "margins.last_block is embed, expected a block's label"),
    ],
)
def test_parameters_that_mean_nothing_are_refused_by_name(given, said):
    with pytest.raises(VlmlakeError, match=said):
        parameters_of([given])


def test_a_last_block_before_one_that_is_kept_is_refused():
    with pytest.raises(VlmlakeError, match=r"margins\.last_block is block_2, expected block_4"):
        margins(planted_margins(images=10), parameters=MarginParameters(last_block="block_2"))


def test_the_lens_at_the_last_block_is_the_stored_logits(found):
    row = found.row(metric="lens_deviation", split="all")
    assert (row["layer"], row["n"]) == ("block_4", 240)
    assert 0 <= row["value"] < 1e-5


def test_a_lens_that_is_not_the_stored_logits_is_refused():
    data = planted_margins(images=10)
    twice = data.assign(final_norm=data["final_norm"] * 1.2)
    with pytest.raises(VlmlakeError, match="the lens at block_4 is off the stored logits of example planted/"):
        margins(twice)


def test_a_plan_of_the_first_blocks_says_which_is_the_last():
    data = planted_margins(images=10).isel(layer=slice(0, 4))
    with pytest.raises(VlmlakeError, match="which the parameter last_block then names"):
        margins(data)
    row = margins(data, parameters=MarginParameters(last_block="block_4")).row(metric="lens_deviation", split="all")
    assert row["value"] is None
    assert row["note"] == "the plan keeps no block_4 to compare the lens with"


def test_a_plan_of_some_layers_has_their_numbers(found):
    result = margins(planted_margins().isel(layer=[1, 3, 5]))
    assert result.examples["layer"].values.tolist() == ["block_0", "block_2", "block_4"]
    np.testing.assert_allclose(
        result.examples["margin_gold"], found.examples["margin_gold"].isel(layer=[1, 3, 5]), atol=1e-6
    )
    assert result.row(metric="separation_onset", split="all")["value"] == 2
    assert "need not be the model's last block" in result.row(metric="lens_deviation", split="all")["note"]


def test_without_logits_the_models_token_is_the_last_layers(found):
    result = margins(planted_margins().drop_vars("logits"))
    for name in found.examples:
        np.testing.assert_allclose(result.examples[name], found.examples[name], atol=1e-6)
    assert "keeps no logits" in result.row(metric="lens_deviation", split="all")["note"]


def test_without_a_blank_pass_there_is_no_image_effect():
    result = margins(planted_margins(images=10).drop_vars("blank_states"))
    assert "image_effect" not in result.examples
    assert result.rows(metric="image_effect_peak").is_empty()


@pytest.mark.parametrize("array", ["readout_states", "unembedding", "final_norm"])
def test_what_the_run_does_not_keep_is_named(array):
    with pytest.raises(VlmlakeError, match=f"run planted-00000000 keeps no {array}"):
        margins(planted_margins(images=10).drop_vars(array))


def test_golds_without_a_token_are_counted_and_left_out():
    data = planted_margins(images=10)
    gold = data["gold"].values.astype(object)
    gold[:6] = "zebra"
    result = margins(data.assign_coords(gold=("example", gold)), rule="exact")
    assert np.isnan(result.examples["margin_gold"].values[:6]).all()
    assert np.isfinite(result.examples["margin_gold"].values[6:]).all()
    assert np.isfinite(result.examples["lens_entropy"]).all()
    assert "yes_minus_no" not in result.examples
    row = result.row(metric="margin_gold", statistic="mean", split="all", layer="block_4")
    assert (row["n"], row["note"]) == (34, "6 without a token for the gold answer")


def test_where_no_gold_has_a_token_the_rest_is_still_told():
    data = planted_margins(images=10)
    result = margins(data.assign_coords(gold=("example", ["zebra"] * 40)), rule="exact")
    row = result.row(metric="margin_gold", statistic="mean", split="all", layer="block_4")
    assert (row["value"], row["n"]) == (None, 0)
    assert result.row(metric="lens_entropy", statistic="mean", split="all", layer="block_4")["n"] == 40


def test_states_that_are_no_numbers_are_refused():
    data = planted_margins(images=10)
    states = data["blank_states"].values
    states[7, 2, 3] = np.nan
    with pytest.raises(VlmlakeError, match="blank_states of example planted/1/7 at block_1 give no logits"):
        margins(data.assign(blank_states=(data["blank_states"].dims, states)))


def test_equal_questions_with_other_golds_keep_their_own_margins():
    data = planted_margins(images=10)
    gold = np.where(np.arange(40) % 2, "yes", "no")
    twice = data.isel(example=np.repeat(np.arange(20), 2)).assign_coords(gold=("example", gold))
    found = margins(twice).examples
    np.testing.assert_allclose(found["margin_pred"][::2], found["margin_pred"][1::2])
    assert (np.abs(found["margin_gold"].values[::2] - found["margin_gold"].values[1::2]) > ROUNDING).any()
    assert len(Readouts.of(twice).gold) == 40
    assert len(Readouts.of(twice.assign_coords(gold=("example", ["yes"] * 40))).gold) == 20


def test_a_layer_at_which_all_prompts_are_alike_is_refused_by_name():
    data = planted_margins(images=10)
    states = data["readout_states"].values
    states[:, 0] = states[0, 0] * (1 + 1e-6 * np.random.default_rng(0).normal(size=(40, 1, 1)))
    data = data.assign(readout_states=(data["readout_states"].dims, states))
    wanted = {"metric": "yes_minus_no_size", "statistic": "point_biserial", "split": "all", "layer": "embed"}
    row = margins(data).row(**wanted)
    assert row["value"] is None
    assert "yes_minus_no_size at embed is constant" in row["note"]


def test_a_clusters_workers_find_the_same(found):
    from distributed import Client, LocalCluster

    with LocalCluster(2, processes=False, threads_per_worker=1, dashboard_address=":0") as cluster, Client(cluster):
        there = margins(planted_margins())
    xr.testing.assert_allclose(there.examples, found.examples, atol=1e-6)


def test_a_result_is_an_xarray_and_a_plot(found):
    whole = found.to_xarray()
    assert whole["margin_gold_mean"].sel(bound="value", split="all", layer="block_4").item() == pytest.approx(
        found.row(metric="margin_gold", statistic="mean", split="all", layer="block_4")["value"]
    )
    assert [text.get_text() for text in found.plot().get_legend().get_texts()] == ["right answers", "wrong answers"]


def test_margins_of_a_real_lake_are_those_of_the_definitions(lake_url):
    (data,) = open_lake(lake_url).values()
    result = margins(data)
    data = data.load()
    wanted = naive(data, data["readout_states"].sel(position="prompt_last"))
    for name in FIELDS[:6]:
        np.testing.assert_allclose(result.examples[name], wanted[name], atol=1e-4, err_msg=name)
    assert result.row(metric="lens_deviation", split="all")["value"] < 0.02
    last = result.examples["margin_gold"].sel(layer=data["layer"].values[-1]) > 0
    assert (last == (wanted["gold_token"][:, -1] == data["logits"].values[:, 0].argmax(axis=1))).mean() > 0.97
