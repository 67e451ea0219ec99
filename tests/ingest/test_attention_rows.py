import pytest
import torch

from vlmlake.ingest.attention_rows import attention_rows, recording_rows


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def plain_rows(query, key, allowed, scaling):
    """Rows by the definition, head by head."""
    groups = query.shape[1] // key.shape[1]
    out = torch.zeros(*query.shape[:3], key.shape[2])
    for batch in range(query.shape[0]):
        for head in range(query.shape[1]):
            scores = query[batch, head] @ key[batch, head // groups].T * scaling
            out[batch, head] = scores.masked_fill(~allowed[batch], -torch.inf).softmax(-1)
    return out


@pytest.mark.parametrize("kv_heads", [4, 2, 1], ids=["multi-head", "grouped", "multi-query"])
@pytest.mark.parametrize("mask", ["none", "boolean", "additive"])
def test_rows_are_softmax_rows_under_every_mask_and_grouping(generator, kv_heads, mask):
    query = torch.randn(2, 4, 3, 8, generator=generator)
    key = torch.randn(2, kv_heads, 7, 8, generator=generator)
    allowed = torch.ones(2, 3, 7, dtype=torch.bool).tril(4)
    if mask != "none":
        allowed[1, :, 2] = False
    given = {
        "none": None,
        "boolean": allowed[:, None],
        "additive": torch.zeros(2, 1, 3, 7).masked_fill(~allowed[:, None], torch.finfo(torch.float32).min),
    }[mask]
    rows = attention_rows(query, key, given, 0.35)
    torch.testing.assert_close(rows, plain_rows(query, key, allowed, 0.35))
    assert (rows.masked_select(~allowed[:, None].expand_as(rows)) == 0).all()
    torch.testing.assert_close(rows.sum(-1), torch.ones(2, 4, 3))


def test_a_single_query_without_a_mask_sees_every_key(generator):
    query, key = torch.randn(1, 2, 1, 4, generator=generator), torch.randn(1, 2, 5, 4, generator=generator)
    assert (attention_rows(query, key, None, 0.5) > 0).all()


def test_half_precision_rows_are_float32(generator):
    query, key = torch.randn(1, 2, 3, 4, generator=generator), torch.randn(1, 2, 3, 4, generator=generator)
    rows = attention_rows(query.bfloat16(), key.bfloat16(), None, 0.5)
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows.sum(-1), torch.ones(1, 2, 3))


def test_a_closed_recording_stays_closed(tiny_llava):
    from transformers import LlavaForConditionalGeneration

    model = LlavaForConditionalGeneration.from_pretrained(
        tiny_llava, attn_implementation={"text_config": "vlmlake_sdpa", "vision_config": "sdpa"}
    ).eval()
    ids = torch.tensor([[0, 40, 41, 42]])
    with torch.no_grad(), recording_rows() as rows:
        model(input_ids=ids)
    assert sorted(rows) == [0, 1, 2, 3]
    assert all(row.shape == (1, 4, 4, 4) for row in rows.values())
    kept = {number: row.clone() for number, row in rows.items()}
    with torch.no_grad():
        model(input_ids=ids[:, :2])
    assert all(torch.equal(rows[number], kept[number]) for number in rows)


def test_nothing_is_left_on_the_model_after_a_recording(tiny_llava):
    from vlmlake.ingest.capture import recording
    from vlmlake.ingest.families import load_family

    family = load_family(str(tiny_llava))
    with torch.no_grad(), recording(family, attention=False) as record:
        family.model(input_ids=torch.tensor([[0, 40, 41]]))
    assert record.states.shape == (1, 5, 3, 64)
    assert all(not block._forward_hooks and not block._forward_pre_hooks for block in family.blocks)

    def record_twice():
        with torch.no_grad(), recording(family, attention=False):
            family.model(input_ids=torch.tensor([[0, 40, 41]]))
            family.model(input_ids=torch.tensor([[0, 40, 41]]))

    with pytest.raises(RuntimeError, match="this one saw 2"):
        record_twice()
