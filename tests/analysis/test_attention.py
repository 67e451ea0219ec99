import numpy as np
import pytest

from tests.analysis.planted import GRID, PATCHES, PREFIX, planted_run
from vlmlake.analysis.attention import image_maps, normalised_entropy, spatial_entropy
from vlmlake.errors import VlmlakeError


def rows_of(rows, **wanted):
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


@pytest.mark.parametrize(("queries", "at"), [("answer", 4), ("prompt_last", 3)])
def test_maps_are_the_head_mean_over_the_image_and_sum_to_one(queries, at):
    data = planted_run(images=5)
    maps = image_maps(data, queries)
    rows = data["attention"].values[:, 1:, :, at, 1 : PATCHES + 1].mean(axis=2)
    np.testing.assert_allclose(maps.values[..., 1 : PATCHES + 1], rows / rows.sum(-1, keepdims=True), rtol=1e-5)
    assert (maps.values[..., [0, PREFIX - 1]] == 0).all()
    np.testing.assert_allclose(maps.sum("prefix_token"), 1, rtol=1e-5)


def test_entropy_is_zero_for_one_patch_and_one_for_a_uniform_map():
    data = planted_run(images=3).compute()
    weights = data["attention"].values
    weights[:, :, :, 4] = 0
    weights[:, 1, :, 4, 1 : PATCHES + 1] = 0.5 / PATCHES
    weights[:, 1, :, 4, 0] = 0.5
    weights[:, 2:, :, 4, 7] = 1
    entropy = normalised_entropy(data.chunk(), "answer")
    np.testing.assert_allclose(entropy.sel(layer="block_0"), 1, rtol=1e-6)
    np.testing.assert_allclose(entropy.sel(layer="block_1"), 0, atol=1e-12)


def test_entropy_equals_the_plain_formula():
    data = planted_run(images=4)
    maps = image_maps(data, "answer").values[..., 1 : PATCHES + 1].astype(float)
    wanted = -(maps * np.log(maps)).sum(-1) / np.log(GRID * GRID)
    np.testing.assert_allclose(normalised_entropy(data, "answer").values, wanted)


def pooled(data):
    (row,) = rows_of(spatial_entropy(data), split="all", position="answer", layer="mean")
    return row


def test_sharper_attention_of_right_answers_is_found():
    assert pooled(planted_run(entropy_effect=0.8))["high"] < 0


def test_where_nothing_is_the_interval_covers_zero_at_its_nominal_rate():
    draws = [pooled(planted_run(images=30, seed=seed)) for seed in range(12)]
    assert sum(row["low"] < 0 < row["high"] for row in draws) >= 10


def test_there_is_a_row_for_every_split_query_and_layer():
    rows = spatial_entropy(planted_run(images=20))
    assert len(rows) == 3 * 2 * 4
    assert {row["n"] for row in rows_of(rows, split="all")} == {120}
    assert {row["n"] for row in rows_of(rows, split="random")} == {60}


def test_examples_without_an_answer_token_are_left_out_and_counted():
    data = planted_run(images=20).compute()
    data["token_role"].values[:7, 4] = -1
    with pytest.raises(VlmlakeError, match="example planted/random/0 has no spatial entropy at answer"):
        spatial_entropy(data.chunk())
    data["answer_tokens"].values[:7] = 0
    (row,) = rows_of(spatial_entropy(data.chunk()), split="all", position="answer", layer="mean")
    assert row["n"] == 113
    assert row["note"] == "7 without an answer token"
    (row,) = rows_of(spatial_entropy(data.chunk()), split="all", position="prompt_last", layer="mean")
    assert row["n"] == 120


def test_a_constant_column_gets_no_correlation_but_a_reason():
    data = planted_run(images=20).compute()
    data["attention"].values[:, 1, :, 4] = 0
    data["attention"].values[:, 1, :, 4, 9] = 1
    (row,) = rows_of(spatial_entropy(data.chunk()), split="all", position="answer", layer="block_0")
    assert row["value"] is None
    assert "entropy_normalised at block_0 is constant over all 120 examples" in row["note"]


def test_damaged_rows_stop_the_analysis():
    message = "attention rows of example planted/random/3 at block_1 {}: the store is damaged"
    for change in (0.5, np.nan):
        data = planted_run(images=5).compute()
        data["attention"].values[3, 2, 1, 4] *= change
        with pytest.raises(VlmlakeError, match=message.format("do not sum to 1")):
            image_maps(data.chunk(), "answer")
    data = planted_run(images=5).compute()
    data["attention"].values[3, 2, 0, 4] *= 0.5
    data["attention"].values[3, 2, 1, 4] *= 1.5
    with pytest.raises(VlmlakeError, match=message.format("do not sum to 1")):
        image_maps(data.chunk(), "answer")
    data = planted_run(images=5).compute()
    data["attention"].values[3, 2, 1, 3] = np.roll(data["attention"].values[3, 2, 1, 3], 1)
    with pytest.raises(VlmlakeError, match=message.format("look at tokens after their own")):
        image_maps(data.chunk(), "prompt_last")
    image_maps(data.chunk(), "answer")


def test_an_image_without_attention_gets_no_uniform_map_in_its_place():
    data = planted_run(images=5).compute()
    data["attention"].values[3, 2, :, 4] = 0
    data["attention"].values[3, 2, :, 4, 0] = 1
    with pytest.raises(VlmlakeError, match="planted/random/3 at block_1 give the image nothing at all"):
        image_maps(data.chunk(), "answer")


def test_unknown_queries_are_named():
    with pytest.raises(VlmlakeError, match="unknown queries all: expected answer or prompt_last"):
        image_maps(planted_run(images=2), "all")
