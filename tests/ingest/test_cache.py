import pytest
import torch
from transformers import DynamicCache

from vlmlake.ingest.cache import with_room

BLOCKS, HEADS, WIDTH = 3, 2, 4


def states(rows: int, tokens: int, seed: int) -> torch.Tensor:
    return torch.randn((rows, HEADS, tokens, WIDTH), generator=torch.Generator().manual_seed(seed))


def prefilled(rows: int, tokens: int) -> DynamicCache:
    cache = DynamicCache()
    for block in range(BLOCKS):
        cache.update(states(rows, tokens, block), states(rows, tokens, 100 + block), block)
    return cache


@pytest.mark.parametrize("rows", [[0, 1, 2], [0, 0, 2, 2, 2], [2, 0], [1]], ids=str)
@pytest.mark.parametrize("updates", [[1, 1, 1], [5, 1, 3], [9]], ids=str)
def test_updates_are_those_of_a_plain_cache(rows, updates):
    plain = prefilled(3, 6)
    roomy = with_room(plain, rows, room=9)
    plain.batch_select_indices(torch.tensor(rows))
    for number, tokens in enumerate(updates):
        for block in range(BLOCKS):
            keys = states(len(rows), tokens, 200 + 10 * number + block)
            values = states(len(rows), tokens, 300 + 10 * number + block)
            for ours, theirs in zip(roomy.update(keys, values, block), plain.update(keys, values, block), strict=True):
                assert torch.equal(ours, theirs)
            assert torch.equal(roomy.layers[block].keys, plain.layers[block].keys)
            assert torch.equal(roomy.layers[block].values, plain.layers[block].values)
            assert roomy.get_seq_length(block) == plain.get_seq_length(block)


def test_a_step_copies_nothing_that_is_there():
    roomy = with_room(prefilled(1, 6), [0], room=2)
    places = [(layer.keys.data_ptr(), layer.values.data_ptr()) for layer in roomy.layers]
    for block in range(BLOCKS):
        roomy.update(states(1, 1, 0), states(1, 1, 1), block)
    assert [(layer.keys.data_ptr(), layer.values.data_ptr()) for layer in roomy.layers] == places


def test_rows_of_one_prefix_do_not_write_into_one_another_nor_into_the_cache_they_come_from():
    plain = prefilled(1, 4)
    before = [layer.keys.clone() for layer in plain.layers]
    first = with_room(plain, [0, 0], room=1)
    second = with_room(plain, [0], room=1)
    keys = states(2, 1, 7)
    shown, _ = first.update(keys, keys, 0)
    assert torch.equal(shown[:, :, -1:], keys)
    assert second.get_seq_length(0) == 4
    assert all(torch.equal(layer.keys, kept) for layer, kept in zip(plain.layers, before, strict=True))


def test_more_tokens_than_there_is_room_for_are_refused():
    roomy = with_room(prefilled(1, 4), [0], room=1)
    with pytest.raises(RuntimeError):
        roomy.update(states(1, 2, 0), states(1, 2, 1), 0)


def test_all_rows_of_a_cache_with_room_go_on_without_a_copy_again_and_again():
    roomy = with_room(prefilled(2, 4), [0, 1, 1], room=3)
    places = [layer.keys.data_ptr() for layer in roomy.layers]
    for seed in (7, 8):
        branch = with_room(roomy, range(3), room=3)
        assert [layer.keys.data_ptr() for layer in branch.layers] == places
        keys, values = states(3, 3, seed), states(3, 3, 10 + seed)
        shown, _ = branch.update(keys, values, 0)
        assert torch.equal(shown[:, :, 4:], keys)
        assert [layer.keys.shape[-2] for layer in roomy.layers] == [4, 4, 4]


@pytest.mark.parametrize(("rows", "room"), [([0, 1], 3), ([1, 0, 2], 3), ([0, 1, 2], 4)], ids=str)
def test_other_rows_or_more_room_are_a_copy(rows, room):
    roomy = with_room(prefilled(3, 4), [0, 1, 2], room=3)
    branch = with_room(roomy, rows, room)
    assert branch.layers[0].keys.data_ptr() != roomy.layers[0].keys.data_ptr()
    assert torch.equal(branch.layers[0].keys, roomy.layers[0].keys[rows])
