import random

import pytest

from vlmlake.store_schema.batches import Decoder, Lengths, plan_batches, plan_extents


def alike(keys) -> list[Lengths]:
    """Every prompt as long as the others."""
    return [Lengths(40, 9)] * len(keys)


def planned(keys, batch_size):
    return [batch.prefixes for batch in plan_batches(keys, batch_size, alike(keys))]


def test_rows_of_one_image_stay_together_and_share_a_prefix():
    keys = ["a", "b", "a", "c", "b", "b"]
    batches = plan_batches(keys, 4, alike(keys))
    assert [batch.prefixes for batch in batches] == [((0, 2),), ((1, 4, 5), (3,))]
    assert batches[1].examples == (1, 4, 5, 3)
    assert batches[1].prefix_of == (0, 0, 0, 1)


def test_an_image_with_too_many_questions_is_cut():
    assert planned(["a"] * 5, 2) == [((0, 1),), ((2, 3),), ((4,),)]


@pytest.mark.parametrize("seed", range(20))
def test_every_row_gets_exactly_one_place(seed):
    rng = random.Random(seed)
    keys = [rng.choice("abcdefgh") for _ in range(rng.randint(1, 60))]
    prefix = {key: rng.randint(1, 3) for key in keys}
    lengths = [Lengths(prefix[key], rng.randint(1, 9)) for key in keys]
    size = rng.randint(1, 12)
    batches = plan_batches(keys, size, lengths)
    assert sorted(index for batch in batches for index in batch.examples) == list(range(len(keys)))
    assert all(1 <= len(batch.examples) <= size for batch in batches)
    assert all(len({keys[index] for index in prefix}) == 1 for batch in batches for prefix in batch.prefixes)
    assert [batch.number for batch in batches] == list(range(len(batches)))
    assert plan_batches(keys, size, lengths) == batches


def test_prefixes_of_similar_length_come_together_whatever_order_they_were_asked_in():
    sizes = [30, 10, 20, 10, 30, 20]
    batches = plan_batches("abcdef", 2, [Lengths(size, 5) for size in sizes])
    assert [batch.examples for batch in batches] == [(1, 3), (2, 5), (0, 4)]


def test_of_equal_prefixes_those_of_similar_longest_suffix_come_together():
    lengths = [Lengths(10, suffix) for suffix in (9, 2, 8, 3, 1, 1)]
    batches = plan_batches(["a", "b", "c", "d", "e", "e"], 2, lengths)
    assert [batch.examples for batch in batches] == [(4, 5), (1, 3), (2, 0)]


def test_a_batch_pads_no_more_than_the_order_of_the_questions_would():
    """Cut in the order in which they come, images of two sizes would pad one another all through."""
    lengths = [Lengths(100 if number % 2 else 10, 5) for number in range(40)]
    batches = plan_batches([str(number) for number in range(40)], 10, lengths)
    padded = sum(
        max(lengths[index].prefix for index in batch.examples) - lengths[index].prefix
        for batch in batches
        for index in batch.examples
    )
    assert padded == 0


def test_extents_hold_the_longest_suffix_with_its_answer_and_the_longest_prefix():
    keys, lengths = ["a", "a", "b"], [Lengths(40, 5), Lengths(40, 9), Lengths(41, 7)]
    batches = plan_batches(keys, 2, lengths)
    extents = plan_extents(batches, lengths, Decoder(4, 2, 8, 100), layers=5, positions=4, answer_tokens=3)
    assert (extents.batches, extents.example_rows, extents.prefix_rows) == (2, 2, 1)
    assert (extents.layers, extents.tokens, extents.prefix_tokens, extents.positions) == (5, 12, 41, 4)
    assert (extents.heads, extents.hidden, extents.vocab) == (2, 8, 100)


def test_extents_count_the_layers_and_positions_that_are_kept():
    lengths = alike("a")
    batches = plan_batches("a", 2, lengths)
    extents = plan_extents(batches, lengths, Decoder(32, 2, 8, 100), layers=3, positions=1, answer_tokens=16)
    assert (extents.layers, extents.positions, extents.tokens) == (3, 1, 25)


def test_a_batch_of_nothing_is_refused():
    with pytest.raises(ValueError, match="batch size is 0"):
        plan_batches(["a"], 0, alike("a"))
