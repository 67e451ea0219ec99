import json

import numpy as np
import pytest

from tests.analysis.planted_margins import planted_margins
from vlmlake.analysis.attribution import attribution
from vlmlake.analysis.margins.margins import margins
from vlmlake.answers.spellings import MODAL
from vlmlake.errors import VlmlakeError
from vlmlake.store_schema.lake import open_lake


@pytest.fixture(scope="module")
def found():
    return attribution(planted_margins())


def test_the_parts_add_up_to_the_final_margin(found):
    parts = found.examples
    total = (
        parts["attribution_embed"]
        + parts["attribution_attn"].sum("layer", skipna=False)
        + parts["attribution_mlp"].sum("layer", skipna=False)
    )
    final = margins(planted_margins()).examples["margin_gold"].sel(layer="block_4")
    np.testing.assert_allclose(total, final, atol=1e-5)
    assert found.row(metric="completeness_gap", split="all")["value"] < 1e-5


def test_a_write_counts_as_its_projection_at_the_frozen_scale(found):
    data = planted_margins()
    last = data["readout_states"].isel(layer=-1, position=0).values.astype(float)
    unembedding = data["unembedding"].values.astype(float) * data["final_norm"].values
    for example in (0, 17, 100):
        logits = unembedding @ last[example]
        gold = [1, 2] if data["gold"].values[example] == "yes" else [3, 4]
        others = np.setdiff1d(np.arange(len(logits)), gold)
        apart = unembedding[gold[logits[gold].argmax()]] - unembedding[others[logits[others].argmax()]]
        scale = np.sqrt((last[example] ** 2).mean() + data.attrs["final_norm_epsilon"])
        for half in ("attn", "mlp"):
            wanted = data[f"{half}_write"].values[example, 1:] @ apart / scale
            np.testing.assert_allclose(found.examples[f"attribution_{half}"][example], wanted, atol=1e-5)


@pytest.mark.parametrize(("images", "share"), [(30, 0.2), (60, 0.75), (150, 1.0)])
def test_a_planted_share_of_the_mlp_is_found_and_its_interval_covers_it(images, share):
    result = attribution(planted_margins(images=images, mlp_share=share, seed=images))
    signed = result.row(metric="mlp_share_signed", split="all", layer="block_2")
    absolute = result.row(metric="mlp_share_absolute", split="all", layer="block_2")
    assert signed["value"] == pytest.approx(share, abs=0.05)
    assert signed["low"] - 0.02 <= share <= signed["high"] + 0.02
    assert absolute["value"] == pytest.approx(share, abs=0.1)
    means = result.rows(metric="attribution_mlp", statistic="mean", split="all")
    assert means["layer"][int(means["value"].arg_max())] == "block_2"


def test_shares_of_all_blocks_are_ratios_of_sums(found):
    attn, mlp = (found.examples[f"attribution_{half}"].values for half in ("attn", "mlp"))
    rows = found.rows(split="all", statistic="share")
    whole = {row["metric"]: row["value"] for row in rows.iter_rows(named=True) if row["layer"] is None}
    assert whole["mlp_share_signed"] == pytest.approx(mlp.sum() / (mlp + attn).sum())
    assert whole["mlp_share_absolute"] == pytest.approx(np.abs(mlp).sum() / (np.abs(mlp) + np.abs(attn)).sum())


def test_noise_has_an_even_absolute_share():
    result = attribution(planted_margins(signal_block=None, seed=3))
    for layer in ("block_0", "block_4"):
        row = result.row(metric="mlp_share_absolute", split="all", layer=layer)
        assert row["low"] - 0.03 <= 0.5 <= row["high"] + 0.03


def test_writes_that_do_not_add_up_are_refused():
    data = planted_margins(images=10)
    silent = data["mlp_write"].where(data["layer"] != "block_2", 0)
    with pytest.raises(VlmlakeError, match="off its final margin, more than rounding explains"):
        attribution(data.assign(mlp_write=silent))


@pytest.mark.parametrize("layers", [slice(None), [1, 3, 5]])
@pytest.mark.parametrize("arrays", [["mlp_write"], ["attn_write", "mlp_write"]])
def test_a_write_that_is_no_number_is_refused(arrays, layers):
    data = planted_margins(images=10).compute()
    for array in arrays:
        data[array].values[7, 3] = np.nan
    with pytest.raises(VlmlakeError, match=f"{arrays[0]} of example planted/1/7 hold something that is no number"):
        attribution(data.chunk().isel(layer=layers))


def test_embeddings_that_are_no_numbers_are_refused():
    data = planted_margins(images=10).compute()
    data["readout_states"].values[7, 0] = np.nan
    with pytest.raises(VlmlakeError, match="readout_states at embed of example planted/1/7 hold something"):
        attribution(data.chunk())


def test_an_example_without_a_token_for_its_gold_answer_may_hold_what_it_likes():
    data = planted_margins(images=10).compute()
    gold = data["gold"].values.astype(object)
    gold[7] = "zebra"
    data["mlp_write"].values[7, 3] = np.nan
    row = attribution(data.assign_coords(gold=("example", gold)).chunk(), rule="exact").row(
        metric="mlp_share_signed", split="all", layer="block_2"
    )
    assert (row["n"], row["note"]) == (39, "1 without a token for the gold answer")


@pytest.mark.parametrize("layers", [slice(0, 5), [1, 3, 4]])
def test_a_plan_without_the_last_block_has_no_scale_to_freeze(layers):
    with pytest.raises(VlmlakeError, match="the gold answer's lead at block_3 is off that of the stored logits"):
        attribution(planted_margins(images=10, signal_block=4).isel(layer=layers))


def test_without_logits_every_row_says_that_the_last_layer_need_not_be_the_last_block():
    result = attribution(planted_margins(images=10).drop_vars("logits"))
    assert (
        result.table["note"]
        .fill_null("")
        .str.contains("keeps no logits: block_4 need not be the model's last block")
        .all()
    )


def test_ten_annotators_golds_are_read_as_the_modal_answer_and_notes_say_so(found):
    data = planted_margins()
    ten = [json.dumps(["red", *[gold] * 6, *["red"] * 3]) for gold in data["gold"].values]
    annotated = attribution(data.assign_coords(gold=("example", ten)), rule="vqa_soft")
    np.testing.assert_allclose(annotated.examples["attribution_mlp"], found.examples["attribution_mlp"])
    assert annotated.table["note"].fill_null("").str.contains(MODAL, literal=True).all()


def test_a_plan_of_some_layers_has_their_writes_and_no_whole(found):
    result = attribution(planted_margins().isel(layer=[1, 3, 5]))
    np.testing.assert_allclose(
        result.examples["attribution_mlp"], found.examples["attribution_mlp"].isel(layer=[0, 2, 4]), atol=1e-6
    )
    assert "attribution_embed" not in result.examples
    row = result.row(metric="completeness_gap", split="all")
    assert row["value"] is None
    assert row["note"] == "the plan keeps block_0, block_2, block_4 only: the parts are not the whole margin"


@pytest.mark.parametrize("array", ["attn_write", "mlp_write", "readout_states"])
def test_what_the_run_does_not_keep_is_named(array):
    with pytest.raises(VlmlakeError, match=f"keeps no {array}"):
        attribution(planted_margins(images=10).drop_vars(array))


def test_golds_without_a_token_are_counted_and_left_out():
    data = planted_margins(images=10)
    gold = data["gold"].values.astype(object)
    gold[:6] = "zebra"
    result = attribution(data.assign_coords(gold=("example", gold)), rule="exact")
    assert np.isnan(result.examples["attribution_mlp"].values[:6]).all()
    row = result.row(metric="attribution_mlp", split="all", layer="block_2")
    assert (row["n"], row["note"]) == (34, "6 without a token for the gold answer")


def test_where_no_gold_has_a_token_rows_have_no_value():
    data = planted_margins(images=10)
    result = attribution(data.assign_coords(gold=("example", ["zebra"] * 40)), rule="exact")
    assert result.table["value"].null_count() == result.table.height


def test_a_clusters_workers_find_the_same(found):
    from distributed import Client, LocalCluster

    with LocalCluster(2, processes=False, threads_per_worker=1, dashboard_address=":0") as cluster, Client(cluster):
        there = attribution(planted_margins())
    for name in found.examples:
        np.testing.assert_allclose(there.examples[name], found.examples[name], atol=1e-6)


def test_the_parts_of_a_real_lake_add_up_within_float16(lake_url):
    (data,) = open_lake(lake_url).values()
    result = attribution(data)
    assert 0 < result.row(metric="completeness_gap", split="all")["value"] < 0.02
    assert [text.get_text() for text in result.plot().get_legend().get_texts()] == ["attention", "MLP"]
    assert "mlp_share_signed_share" in result.to_xarray()
