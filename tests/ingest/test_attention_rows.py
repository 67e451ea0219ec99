import pytest
import torch

from vlmlake.demo import checkpoints
from vlmlake.ingest.attention_rows import IMPLEMENTATIONS, RowsAsked, asking_rows, attention_rows
from vlmlake.ingest.capture import ALL, LAST, Keep, recording
from vlmlake.ingest.families import load_family
from vlmlake.ingest.host import Host
from vlmlake.ingest.model_source import ModelSource


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def family(tiny_llava):
    return load_family(ModelSource(str(tiny_llava)))


@pytest.fixture(scope="module", params=checkpoints(), ids=lambda folder: folder.name)
def any_family(request):
    return load_family(ModelSource(str(request.param)))


def plain_rows(query, key, allowed, scaling):
    """Rows by the definition, head by head."""
    groups = query.shape[1] // key.shape[1]
    out = torch.zeros(*query.shape[:3], key.shape[2])
    for batch in range(query.shape[0]):
        for head in range(query.shape[1]):
            scores = query[batch, head] @ key[batch, head // groups].T * scaling
            out[batch, head] = scores.masked_fill(~allowed[batch], -torch.inf).softmax(-1)
    return out


def spelled(allowed: torch.Tensor, how: str) -> torch.Tensor | None:
    """What a query may look at, [batch, queries, keys], as the kernels are told it."""
    return {
        "none": None,
        "padding": allowed[:, -1].long(),
        "boolean": allowed[:, None],
        "additive": torch.zeros(allowed[:, None].shape).masked_fill(~allowed[:, None], torch.finfo(torch.float32).min),
    }[how]


@pytest.mark.parametrize("kv_heads", [4, 2, 1], ids=["multi-head", "grouped", "multi-query"])
@pytest.mark.parametrize("mask", ["none", "padding", "boolean", "additive"])
def test_rows_are_softmax_rows_under_every_mask_and_grouping(generator, kv_heads, mask):
    query = torch.randn(2, 4, 3, 8, generator=generator)
    key = torch.randn(2, kv_heads, 7, 8, generator=generator)
    allowed = torch.ones(2, 3, 7, dtype=torch.bool).tril(4)
    if mask != "none":
        allowed[1, :, 2] = False
    rows = attention_rows(query, key, spelled(allowed, mask), 0.35)
    torch.testing.assert_close(rows, plain_rows(query, key, allowed, 0.35))
    assert (rows.masked_select(~allowed[:, None].expand_as(rows)) == 0).all()
    torch.testing.assert_close(rows.sum(-1), torch.ones(2, 4, 3))


@pytest.mark.parametrize("chosen", [slice(-1, None), slice(0, 1), slice(1, 3), slice(2, None)], ids=str)
@pytest.mark.parametrize("mask", ["none", "padding", "boolean", "additive"])
def test_chosen_queries_get_the_rows_that_they_have_among_all(generator, mask, chosen):
    query = torch.randn(2, 4, 4, 8, generator=generator)
    key = torch.randn(2, 2, 6, 8, generator=generator)
    allowed = torch.ones(2, 4, 6, dtype=torch.bool).tril(2)
    if mask != "none":
        allowed[0, :, 0] = False
    given = spelled(allowed, mask)
    rows = attention_rows(query, key, given, 0.35, chosen)
    torch.testing.assert_close(rows, attention_rows(query, key, given, 0.35)[:, :, chosen])


def test_a_mask_of_its_own_for_every_head_is_respected(generator):
    query, key = torch.randn(2, 2, 3, 4, generator=generator), torch.randn(2, 2, 5, 4, generator=generator)
    allowed = torch.rand(2, 2, 3, 5, generator=generator) < 0.6
    allowed[..., 0] = True
    rows = attention_rows(query, key, allowed, 0.5)
    for head in range(2):
        one = slice(head, head + 1)
        wanted = plain_rows(query[:, one], key[:, one], allowed[:, head], 0.5)
        torch.testing.assert_close(rows[:, one], wanted)


def test_a_single_query_without_a_mask_sees_every_key(generator):
    query, key = torch.randn(1, 2, 1, 4, generator=generator), torch.randn(1, 2, 5, 4, generator=generator)
    assert (attention_rows(query, key, None, 0.5) > 0).all()


def test_half_precision_rows_are_float32(generator):
    query, key = torch.randn(1, 2, 3, 4, generator=generator), torch.randn(1, 2, 3, 4, generator=generator)
    rows = attention_rows(query.bfloat16(), key.bfloat16(), None, 0.5)
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows.sum(-1), torch.ones(1, 2, 3))


IDS = torch.tensor([[5, 40, 41, 42, 60, 61], [5, 5, 5, 50, 51, 52]])
SEEN = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1]])


def decoder_rows(family, kernel: str) -> tuple[dict[int, torch.Tensor], torch.Tensor]:
    """Every row of every block of the decoder, and its output, over two left-padded texts under one of our kernels."""
    rows: dict[int, torch.Tensor] = {}
    blocks = frozenset(range(len(family.blocks)))
    family.model.set_attn_implementation({"text_config": IMPLEMENTATIONS[kernel]})
    try:
        with torch.inference_mode(), asking_rows(RowsAsked(blocks, ALL, rows.__setitem__)):
            out = family.model.model.language_model(input_ids=IDS, attention_mask=SEEN)
    finally:
        family.model.set_attn_implementation({"text_config": IMPLEMENTATIONS["sdpa"]})
    return rows, out.last_hidden_state


def plain_decoder_rows(family) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The same from transformers' own eager attention."""
    family.model.set_attn_implementation({"text_config": "eager"})
    try:
        with torch.inference_mode():
            out = family.model.model.language_model(input_ids=IDS, attention_mask=SEEN, output_attentions=True)
    finally:
        family.model.set_attn_implementation({"text_config": IMPLEMENTATIONS["sdpa"]})
    return out.attentions, out.last_hidden_state


def real_tokens(rows: torch.Tensor) -> list[torch.Tensor]:
    """Rows of tokens alone: what padding looks at concerns nobody."""
    return [rows[batch, :, SEEN[batch].bool()] for batch in range(len(SEEN))]


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_a_kernels_rows_and_output_are_those_of_an_eager_model(any_family, kernel):
    rows, output = decoder_rows(any_family, kernel)
    wanted, wanted_output = plain_decoder_rows(any_family)
    assert sorted(rows) == list(range(len(wanted)))
    for number, plain in enumerate(wanted):
        assert rows[number].dtype == torch.float32
        for ours, theirs in zip(real_tokens(rows[number]), real_tokens(plain), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    real = SEEN.bool()
    scale = float(wanted_output[real].abs().max())
    assert float((output[real] - wanted_output[real]).abs().max()) < 1e-5 * max(1.0, scale)


def test_eager_rows_are_sdpas_rows(any_family):
    eager, _ = decoder_rows(any_family, "eager")
    sdpa, _ = decoder_rows(any_family, "sdpa")
    for number in sdpa:
        for ours, theirs in zip(real_tokens(sdpa[number]), real_tokens(eager[number]), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_only_the_blocks_and_queries_asked_for_are_handed_on(family, kernel):
    whole, _ = decoder_rows(family, kernel)
    rows: dict[int, torch.Tensor] = {}
    family.model.set_attn_implementation({"text_config": IMPLEMENTATIONS[kernel]})
    asked = RowsAsked(frozenset([1, 3]), slice(-2, None), rows.__setitem__)
    try:
        with torch.inference_mode(), asking_rows(asked):
            family.model.model.language_model(input_ids=IDS, attention_mask=SEEN)
    finally:
        family.model.set_attn_implementation({"text_config": IMPLEMENTATIONS["sdpa"]})
    assert sorted(rows) == [1, 3]
    for number, row in rows.items():
        torch.testing.assert_close(row, whole[number][:, :, -2:], rtol=0, atol=1e-6)


def test_nothing_is_handed_on_after_the_asking(family):
    taken = []
    everything = RowsAsked(frozenset(range(4)), ALL, lambda number, rows: taken.append((number, rows.shape)))
    with torch.inference_mode(), asking_rows(everything):
        family.model(input_ids=IDS[:1])
    assert taken == [(number, (1, 4, 6, 6)) for number in range(4)]
    with torch.inference_mode():
        family.model(input_ids=IDS[:1])
    assert len(taken) == 4


def test_the_asking_ends_with_an_error_too(family):
    taken = []

    def fail():
        with asking_rows(RowsAsked(frozenset([0]), ALL, lambda number, rows: taken.append(number))):
            raise RuntimeError("model")

    with pytest.raises(RuntimeError, match="model"):
        fail()
    with torch.inference_mode():
        family.model(input_ids=IDS[:1])
    assert taken == []


def test_an_asking_inside_another_gives_way_to_it_again(family):
    outer, inner = [], []
    with torch.inference_mode(), asking_rows(RowsAsked(frozenset([0]), ALL, lambda *taken: outer.append(taken))):
        with asking_rows(RowsAsked(frozenset([0]), ALL, lambda *taken: inner.append(taken))):
            family.model(input_ids=IDS[:1])
        family.model(input_ids=IDS[:1])
    assert (len(outer), len(inner)) == (1, 1)


def test_nothing_is_left_on_the_model_after_a_recording(family):
    layers, host = tuple(range(5)), Host(torch.float32, torch.float32)

    def modules():
        return [module for block in family.blocks for module in block.modules()]

    with torch.inference_mode(), recording(family, layers, Keep(states=ALL, rows=LAST, writes=True), host) as kept:
        family.model(input_ids=IDS[:1])
    assert sorted(kept.states) == [0, 1, 2, 3, 4]
    assert sorted(kept.rows) == sorted(kept.attn_write) == sorted(kept.mlp_write) == [1, 2, 3, 4]
    assert all(states.shape == (1, 6, 64) for states in kept.states.values())
    assert all(rows.shape == (1, 4, 1, 6) for rows in kept.rows.values())
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in modules())
    before = {layer: states.clone() for layer, states in kept.states.items()}
    with torch.inference_mode():
        family.model(input_ids=IDS[1:])
    assert all(torch.equal(kept.states[layer], before[layer]) for layer in before)


def test_a_recording_holds_one_forward_and_leaves_no_hook_behind_where_it_saw_two(family):
    def record_twice():
        with torch.inference_mode(), recording(family, (0, 1), Keep(states=ALL), Host(torch.float32, torch.float32)):
            family.model(input_ids=IDS[:1])
            family.model(input_ids=IDS[:1])

    with pytest.raises(RuntimeError, match="this one saw 2"):
        record_twice()
    assert all(not block._forward_hooks and not block._forward_pre_hooks for block in family.blocks)


def test_layers_that_are_not_wanted_are_not_recorded(family):
    with (
        torch.inference_mode(),
        recording(family, (2, 4), Keep(states=LAST, rows=ALL), Host(torch.float16, torch.float16)) as kept,
    ):
        family.model(input_ids=IDS[:1])
    assert sorted(kept.states) == sorted(kept.rows) == [2, 4]
    assert all(states.shape == (1, 1, 64) and states.dtype == torch.float16 for states in kept.states.values())
    assert len(kept.finite) == 1
    assert bool(kept.finite[0])
