import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from vlmlake.analysis.layer_order import block_numbers
from vlmlake.analysis.margins.layers import commit_layers, crossing, onset, peak, whole_stack

BLOCKS = np.array([-1, 0, 1, 2, 3])
CURVES = arrays(
    float, array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.sampled_from([-2.0, -1.0, 0.0, 1.0, 2.0])
)


def test_layers_are_numbered_by_block_and_the_embeddings_come_before_the_first():
    np.testing.assert_array_equal(block_numbers(["embed", "block_0", "block_31"]), [-1, 0, 31])


@pytest.mark.parametrize(
    ("layers", "whole"),
    [
        (["embed", "block_0", "block_1"], True),
        (["block_0", "block_1"], True),
        (["block_1", "block_2"], False),
        (["embed", "block_0", "block_2"], False),
        (["embed"], False),
    ],
)
def test_a_stack_is_whole_if_no_block_is_missing_before_the_last_kept(layers, whole):
    assert whole_stack(layers) is whole


@pytest.mark.parametrize(
    ("margins", "block"),
    [
        ([-1, -1, 2, 3, 1], 1),
        ([1, 1, 1, 1, 1], -1),
        ([-1, -2, -1, -3, -1], -1),
        ([-1, 1, -1, 1, -1], 3),
        ([1, 1, 0, 1, 1], 2),
        ([-1, np.nan, 1, 1, 1], np.nan),
    ],
)
def test_an_example_commits_where_its_margin_last_changes_its_sign(margins, block):
    np.testing.assert_array_equal(commit_layers(np.array([margins], float), BLOCKS), [block])


@given(CURVES)
def test_commit_layers_are_those_that_a_walk_from_the_end_finds(margins):
    blocks = np.arange(margins.shape[1]) * 3
    for row, found in zip(margins, commit_layers(margins, blocks), strict=True):
        place = len(row) - 1
        while place and (row[place - 1] > 0) == (row[-1] > 0):
            place -= 1
        assert found == blocks[place]


@given(CURVES, st.sampled_from([-1.0, 0.0, 0.5]))
def test_onset_crossing_and_peak_are_those_of_a_walk(curves, threshold):
    blocks = np.arange(curves.shape[1]) * 2 - 1
    layers, sizes = peak(curves, blocks)
    found = zip(curves, onset(curves, blocks, threshold), crossing(curves, blocks), layers, sizes, strict=True)
    for row, first, stays, highest, size in found:
        over = [block for block, value in zip(blocks, row, strict=True) if value > threshold]
        np.testing.assert_equal(first, over[0] if over else np.nan)
        above = [block for place, block in enumerate(blocks) if (row[place:] > 0).all()]
        np.testing.assert_equal(stays, above[0] if above else np.nan)
        assert size == row.max()
        assert highest == blocks[row.argmax()]


def test_a_curve_with_a_gap_has_no_peak_onset_or_crossing():
    gap = np.full((1, 5), np.nan)
    for found in (*peak(gap, BLOCKS), onset(gap, BLOCKS, 0), crossing(gap, BLOCKS)):
        assert np.isnan(found).all()
