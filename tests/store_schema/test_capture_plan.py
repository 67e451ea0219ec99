import random

import pytest

from vlmlake.store_schema.capture_plan import Decoder, plan_batches, plan_extents


def test_examples_of_one_image_stay_together_and_share_a_prefix():
    batches = plan_batches(["a", "b", "a", "c", "b", "b"], batch_size=4)
    assert [batch.prefixes for batch in batches] == [((0, 2),), ((1, 4, 5), (3,))]
    assert batches[1].examples == (1, 4, 5, 3)
    assert batches[1].prefix_of == (0, 0, 0, 1)


def test_an_image_with_too_many_questions_is_cut():
    assert [batch.prefixes for batch in plan_batches(["a"] * 5, batch_size=2)] == [((0, 1),), ((2, 3),), ((4,),)]


@pytest.mark.parametrize("seed", range(20))
def test_every_example_gets_exactly_one_row(seed):
    rng = random.Random(seed)
    keys = [rng.choice("abcdefgh") for _ in range(rng.randint(1, 60))]
    size = rng.randint(1, 12)
    batches = plan_batches(keys, size)
    assert sorted(index for batch in batches for index in batch.examples) == list(range(len(keys)))
    assert all(1 <= len(batch.examples) <= size for batch in batches)
    assert all(len({keys[index] for index in prefix}) == 1 for batch in batches for prefix in batch.prefixes)
    assert [batch.number for batch in batches] == list(range(len(batches)))


def test_extents_hold_the_longest_suffix_with_its_answer():
    batches = plan_batches(["a", "a", "b"], batch_size=2)
    extents = plan_extents(batches, Decoder(4, 2, 8, 100), [5, 9, 7], [40, 40, 41], answer_tokens=3)
    assert (extents.batches, extents.example_rows, extents.prefix_rows) == (2, 2, 1)
    assert (extents.layers, extents.tokens, extents.prefix_tokens, extents.positions) == (5, 12, 41, 4)


def test_a_batch_of_nothing_is_refused():
    with pytest.raises(ValueError, match="batch size is 0"):
        plan_batches(["a"], 0)
