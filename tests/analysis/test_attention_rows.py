import numpy as np
import pytest
from scipy import stats

from tests.analysis.planted_attention import READOUT, WHOLE, planted_attention
from vlmlake.analysis.attention import tasks
from vlmlake.analysis.attention.maps import EXAMPLE_METRICS, HEAD_METRICS, numbers
from vlmlake.analysis.attention.tasks import attention_numbers
from vlmlake.errors import VlmlakeError
from vlmlake.store_schema.schema import IMAGE

TOLERANCE = 5e-3


def plain_rows(data, example, kind):
    """[L, H, P]: an example's mean row over the queries of a kind, taken out of the whole array by hand."""
    suffix, answers = int(data["suffix_tokens"][example]), int(data["answer_tokens"][example])
    queries = slice(suffix - 1, suffix) if kind == "prompt_last" else slice(suffix, suffix + answers)
    rows = data["attention"].values[example, 1:, :, queries]
    return rows.mean(axis=2)[..., : data.sizes["prefix_token"]]


@pytest.mark.parametrize("ragged", [False, True], ids=["even", "ragged"])
def test_numbers_are_those_of_each_examples_own_rows(ragged):
    data = planted_attention(images=8, ragged=ragged, heads=3)
    found = attention_numbers(data, TOLERANCE)
    roles = data["prefix_token_role"].sel(prefix=data["prefix_of"]).values
    for kind, name in enumerate(found.kinds):
        for example in range(data.sizes["example"]):
            rows = plain_rows(data, example, name)
            image = rows[..., roles[example] == IMAGE].astype(float)
            told = dict(zip(EXAMPLE_METRICS, found.examples[kind, :, example], strict=True))
            np.testing.assert_allclose(told["entropy"], stats.entropy(image.mean(1), axis=-1), rtol=1e-5)
            np.testing.assert_allclose(told["image_mass"], image.sum(-1).mean(1), rtol=1e-5)
            np.testing.assert_allclose(told["sink_mass"], rows[..., 0].mean(1), rtol=1e-5)
            whole = told["image_mass"] + told["text_mass"] + told["sink_mass"]
            np.testing.assert_allclose(whole, 1, rtol=1e-5)
            heads = dict(zip(HEAD_METRICS, found.heads[kind, :, example], strict=True))
            of_heads = stats.entropy(image, axis=-1) / np.log(image.shape[-1])
            np.testing.assert_allclose(heads["entropy_normalised"], of_heads, rtol=1e-5)
            np.testing.assert_allclose(heads["image_mass"], image.sum(-1), rtol=1e-5)


@pytest.mark.parametrize("ragged", [False, True], ids=["even", "ragged"])
def test_the_readout_array_gives_the_same_numbers_as_the_whole_one(ragged):
    whole, readout = (
        attention_numbers(planted_attention(images=8, ragged=ragged, array=array), TOLERANCE)
        for array in (WHOLE, READOUT)
    )
    assert readout.kinds == ("answer", "prompt_last")
    np.testing.assert_allclose(readout.examples, whole.examples, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(readout.heads, whole.heads, rtol=1e-6)


def test_a_plan_that_keeps_prompt_last_alone_has_no_answer_numbers():
    data = planted_attention(images=5, array=READOUT)
    found = attention_numbers(data.isel(position=slice(0, 1)), TOLERANCE)
    assert found.kinds == ("prompt_last",)
    np.testing.assert_array_equal(found.examples[0], attention_numbers(data, TOLERANCE).examples[1])


def test_how_the_array_is_cut_and_whether_it_is_in_memory_changes_nothing():
    data = planted_attention(images=8, ragged=True)
    wanted = attention_numbers(data, TOLERANCE)
    for other in (data.compute(), data.chunk({"example": 7, "layer": 2, "query": 3}), data.chunk({"example": -1})):
        np.testing.assert_allclose(attention_numbers(other, TOLERANCE).examples, wanted.examples, rtol=1e-5, atol=1e-7)


def test_equal_rows_of_several_splits_have_equal_numbers():
    data = planted_attention(images=6).compute()
    twice = data.isel(example=np.repeat(np.arange(data.sizes["example"]), 2))
    once = attention_numbers(data.chunk({"example": 8}), TOLERANCE).examples
    np.testing.assert_allclose(
        attention_numbers(twice.chunk({"example": 7}), TOLERANCE).examples[:, :, ::2], once, rtol=1e-5
    )
    np.testing.assert_allclose(
        attention_numbers(twice.chunk({"example": 7}), TOLERANCE).examples[:, :, 1::2], once, rtol=1e-5
    )


def test_an_image_that_the_sequence_begins_with_holds_its_sink():
    data = planted_attention(images=5)
    first = data["prefix_token_role"].values.copy()
    first[:, 0] = IMAGE
    row, column = data["image_row"].values.copy(), data["image_column"].values.copy()
    row[:, 0], column[:, 0] = 0, 5
    data = data.assign(
        prefix_token_role=(("prefix", "prefix_token"), first),
        image_row=(("prefix", "prefix_token"), row),
        image_column=(("prefix", "prefix_token"), column),
    )
    found = attention_numbers(data, TOLERANCE).examples[1]
    told = dict(zip(EXAMPLE_METRICS, found, strict=True))
    np.testing.assert_allclose(told["image_mass"] + told["text_mass"], 1, rtol=1e-5)
    assert (told["sink_mass"] < told["image_mass"]).all()


def test_only_the_queries_that_are_asked_for_are_read(monkeypatch):
    data = planted_attention(images=4, ragged=True)
    read = set()

    def watched(piece, layer, blocks):
        read.add(blocks[0].shape[3])
        return numbers(piece, layer, blocks)

    monkeypatch.setattr(tasks, "numbers", watched)
    attention_numbers(data, TOLERANCE)
    last = int((data["suffix_tokens"] + data["answer_tokens"]).max())
    assert read == {last - int(data["suffix_tokens"].min()) + 1}
    assert last < data.sizes["query"]


DAMAGED = "attention rows of example planted/random/3 at block_1 {}: the store is damaged"


@pytest.mark.parametrize("change", [0.5, 1.5, np.nan])
def test_rows_that_do_not_sum_to_one_are_refused(change):
    data = planted_attention(images=5).compute()
    data["attention"].values[3, 2, 1, 4] *= change
    with pytest.raises(VlmlakeError, match=DAMAGED.format("do not sum to 1")):
        attention_numbers(data, TOLERANCE)


@pytest.mark.parametrize("array", [WHOLE, READOUT])
def test_damage_counts_where_a_query_asks_and_nowhere_else(array):
    data = planted_attention(images=5, ragged=True, array=array).compute()
    wanted = attention_numbers(data, TOLERANCE)
    answers, suffix = data["answer_tokens"].values, data["suffix_tokens"].values
    one, two = (int(np.flatnonzero(answers == number)[0]) for number in (1, 2))
    rows = data[array].values
    beyond = (one, 1, 0, 2) if array == READOUT else (one, 1, 0, 0)
    rows[beyond] = 7
    np.testing.assert_array_equal(attention_numbers(data, TOLERANCE).examples, wanted.examples)
    rows[(two, 1, 0, 2) if array == READOUT else (two, 1, 0, suffix[two] + 1)] *= 30
    with pytest.raises(VlmlakeError, match=f"planted/random/{two} at block_0 do not sum to 1"):
        attention_numbers(data, TOLERANCE)


def test_two_heads_that_make_up_for_one_another_are_refused():
    data = planted_attention(images=5).compute()
    data["attention"].values[3, 2, 0, 4] *= 0.5
    data["attention"].values[3, 2, 1, 4] *= 1.5
    with pytest.raises(VlmlakeError, match=DAMAGED.format("do not sum to 1")):
        attention_numbers(data, TOLERANCE)


@pytest.mark.parametrize("array", [WHOLE, READOUT])
def test_negative_weights_are_refused(array):
    data = planted_attention(images=5, array=array).compute()
    row = data[array].values[(3, 2, 1, 3 if array == WHOLE else 0)]
    row[5], row[6] = row[5] + row[6] + 0.1, -0.1
    with pytest.raises(VlmlakeError, match=DAMAGED.format("hold negative weights")):
        attention_numbers(data, TOLERANCE)


def test_a_row_that_looks_ahead_is_refused():
    data = planted_attention(images=5).compute()
    rows = data["attention"].values
    rows[3, 2, 1, 3, -2], rows[3, 2, 1, 3, 5] = rows[3, 2, 1, 3, 5], 0
    with pytest.raises(VlmlakeError, match=DAMAGED.format("look at tokens after their own")):
        attention_numbers(data, TOLERANCE)


@pytest.mark.parametrize("factor", [40, np.nan])
def test_readout_rows_beyond_one_are_refused(factor):
    data = planted_attention(images=5, array=READOUT).compute()
    data["readout_attention"].values[3, 2, 1, 0] *= factor
    with pytest.raises(VlmlakeError, match=DAMAGED.format("do not sum to 1")):
        attention_numbers(data, TOLERANCE)


def test_an_image_without_attention_gets_no_uniform_map_in_its_place():
    data = planted_attention(images=5).compute()
    rows = data["attention"].values
    rows[3, 2, :, 4, :-1], rows[3, 2, :, 4, 0] = 0, 1
    with pytest.raises(VlmlakeError, match=DAMAGED.format("give the image nothing at all")):
        attention_numbers(data, TOLERANCE)


def test_a_head_that_gives_the_image_nothing_has_no_entropy_of_its_own():
    data = planted_attention(images=5).compute()
    rows = data["attention"].values
    rows[3, 2, 0, 4, :-1], rows[3, 2, 0, 4, 0] = 0, 1
    found = attention_numbers(data, TOLERANCE)
    assert np.isnan(found.heads[0, 0, 3, 1, 0])
    assert found.heads[0, 1, 3, 1, 0] == 0
    assert np.isnan(found.heads).sum() == 1
    assert np.isfinite(found.examples).all()


def test_examples_without_an_answer_token_have_no_answer_numbers():
    data = planted_attention(images=5).compute()
    data["answer_tokens"].values[:7] = 0
    found = attention_numbers(data, TOLERANCE)
    assert np.isnan(found.examples[0, :, :7]).all()
    assert np.isfinite(found.examples[0, :, 7:]).all()
    assert np.isfinite(found.examples[1]).all()


def test_an_example_without_an_image_is_named():
    data = planted_attention(images=5).compute()
    data["prefix_token_role"].values[1] = 0
    with pytest.raises(VlmlakeError, match="example planted/random/4 has no image tokens"):
        attention_numbers(data, TOLERANCE)
