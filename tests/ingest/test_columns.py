import numpy as np
import pytest

from vlmlake.ingest.columns import Columns
from vlmlake.ingest.families.base import Prompt

PAD = 99
IMAGE, QUESTION = 1, 2


def prompt(split: int, suffix: int, axes: int = 1, first: int = 0) -> Prompt:
    """Ids count from 10, so that a token tells its place; position axes are 0, 100, 200 apart."""
    tokens = split + suffix
    return Prompt(
        text="",
        ids=np.arange(10, 10 + tokens, dtype=np.int32),
        roles=np.array([IMAGE] * split + [QUESTION] * suffix, np.int8),
        positions=np.arange(first, first + tokens)[None] + 100 * np.arange(axes)[:, None],
        split=split,
        grid=(1, split),
    )


def test_each_part_is_as_wide_as_its_longest():
    assert Columns.of([prompt(3, 5), prompt(6, 2), prompt(1, 1)]) == Columns(prefix=6, suffix=5)


def test_prefixes_and_suffixes_are_padded_on_the_left():
    prompts = [prompt(3, 2), prompt(1, 4)]
    columns = Columns.of(prompts)
    prefixes, suffixes = columns.prefixes(prompts, PAD), columns.suffixes(prompts, PAD)
    assert prefixes.ids.tolist() == [[10, 11, 12], [PAD, PAD, 10]]
    assert prefixes.seen.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert prefixes.roles.tolist() == [[IMAGE] * 3, [-1, -1, IMAGE]]
    assert suffixes.ids.tolist() == [[PAD, PAD, 13, 14], [11, 12, 13, 14]]
    assert suffixes.seen.tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]
    assert suffixes.roles.tolist() == [[-1, -1, QUESTION, QUESTION], [QUESTION] * 4]


def test_prompt_last_is_the_last_column_of_every_row():
    prompts = [prompt(4, 1), prompt(2, 7), prompt(1, 3)]
    suffixes = Columns.of(prompts).suffixes(prompts, PAD)
    assert suffixes.ids[:, -1].tolist() == [one.ids[-1] for one in prompts]
    assert suffixes.seen[:, -1].all()


@pytest.mark.parametrize("axes", [1, 3])
def test_positions_go_with_their_tokens_on_every_axis(axes):
    prompts = [prompt(3, 2, axes, first=1), prompt(1, 3, axes, first=1)]
    columns = Columns.of(prompts)
    for padded in (columns.prefixes(prompts, PAD), columns.suffixes(prompts, PAD)):
        assert padded.positions.shape == (axes, *padded.ids.shape)
        for axis in range(axes):
            wanted = np.where(padded.seen == 1, padded.ids - 10 + 1 + 100 * axis, 0)
            np.testing.assert_array_equal(padded.positions[axis], wanted)


@pytest.mark.parametrize("axes", [1, 3])
def test_prefixes_beside_suffixes_are_whole_prompts_with_a_gap(axes):
    prompts = [prompt(3, 2, axes), prompt(1, 4, axes)]
    columns = Columns.of(prompts)
    whole = columns.prefixes(prompts, PAD).beside(columns.suffixes(prompts, PAD))
    assert whole.ids.tolist() == [[10, 11, 12, PAD, PAD, 13, 14], [PAD, PAD, 10, 11, 12, 13, 14]]
    assert whole.seen.tolist() == [[1, 1, 1, 0, 0, 1, 1], [0, 0, 1, 1, 1, 1, 1]]
    for row, one in enumerate(prompts):
        there = whole.seen[row] == 1
        np.testing.assert_array_equal(whole.ids[row, there], one.ids)
        np.testing.assert_array_equal(whole.roles[row, there], one.roles)
        np.testing.assert_array_equal(whole.positions[:, row, there], one.positions)


def test_a_prefix_that_several_questions_share_is_padded_to_the_width_of_all():
    prompts = [prompt(3, 2), prompt(3, 4), prompt(5, 1)]
    padded = Columns.of(prompts).prefixes([prompts[0], prompts[2]], PAD)
    assert padded.ids.tolist() == [[PAD, PAD, 10, 11, 12], [10, 11, 12, 13, 14]]
