"""The blockwise lens against one that holds all logits at once."""

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, logsumexp

from vlmlake.analysis.margins import lens as blockwise
from vlmlake.analysis.margins.lens import FIELDS, lens, normed
from vlmlake.answers.spellings import NONE


def naive_lens(states, scale, epsilon, unembedding, gold, said, words):
    """FIELDS by their definitions, example by example."""
    states = states.astype(np.float64)
    logits = states / np.sqrt((states**2).mean(axis=1, keepdims=True) + epsilon) * scale @ unembedding.T
    found = []
    for x, spellings, own in zip(logits, gold, said, strict=True):
        spellings = spellings[spellings != NONE]
        others = np.setdiff1d(np.arange(len(x)), spellings)
        shares = log_softmax(x)
        row = dict.fromkeys(FIELDS, np.nan)
        row["lens_entropy"] = -(np.exp(shares) * shares).sum()
        row["other_token"] = others[x[others].argmax()]
        if len(spellings):
            row["margin_gold"] = x[spellings].max() - x[others].max()
            row["rank_gold"] = 1 + (x[others] > x[spellings].max()).sum()
            row["lens_log_prob_gold"] = logsumexp(shares[spellings])
            row["gold_token"] = spellings[x[spellings].argmax()]
        if own != NONE:
            row["margin_pred"] = x[own] - np.delete(x, own).max()
        if len(words[0]) and len(words[1]):
            row["yes_minus_no"] = logsumexp(x[words[0]]) - logsumexp(x[words[1]])
        found.append([row[name] for name in FIELDS])
    return np.array(found).T


@st.composite
def cases(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    vocab, hidden, g = draw(st.integers(8, 60)), draw(st.integers(1, 9)), draw(st.integers(1, 12))
    width = draw(st.integers(1, 4))
    gold = np.stack([rng.permutation(vocab)[:width] for _ in range(g)])
    gold[np.arange(width) >= rng.integers(0, width + 1, size=(g, 1))] = NONE
    # Half of the examples say one of the gold's spellings, some say nothing.
    said = np.where(rng.random(g) < 0.5, gold[:, 0], rng.integers(NONE, vocab, size=g))
    words = tuple(np.split(rng.permutation(vocab)[: draw(st.integers(0, 5))], [2]))
    states = rng.normal(size=(g, hidden)) * draw(st.sampled_from([0.01, 1, 300]))
    unembedding = rng.normal(size=(vocab, hidden)) * draw(st.sampled_from([0.1, 1, 20]))
    unembedding[:, 0] += draw(st.sampled_from([0, -40]))
    scale = rng.normal(size=hidden)
    given_ = (states.astype(np.float32), scale.astype(np.float32), 1e-5, unembedding.astype(np.float32))
    return (*given_, gold, said, words), draw(st.integers(1, 70)), draw(st.integers(1, 13))


@settings(max_examples=150, deadline=None)
@given(cases())
def test_blocks_of_any_size_give_what_all_logits_at_once_give(case):
    given_, columns, rows = case
    with patch.multiple(blockwise, COLUMNS=columns, ROWS=rows):
        found = dict(zip(FIELDS, lens(*given_), strict=True))
    wanted = dict(zip(FIELDS, naive_lens(*given_), strict=True))
    logits = np.abs(normed(*given_[:3]) @ given_[3].T).max()
    for name in FIELDS:
        exact = name in ("rank_gold", "gold_token", "other_token")
        # float32: a few units in the last place of the largest logit
        np.testing.assert_allclose(
            found[name], wanted[name], rtol=0, atol=0 if exact else 3e-5 + 3e-6 * logits, err_msg=name
        )


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 30))
def test_ties_count_as_no_lead_and_no_rank(seed, columns):
    """Whole numbers, so that every product is exact: a gold beside its equal has margin 0 and rank 1."""
    rng = np.random.default_rng(seed)
    states = rng.choice([-1.0, 1.0], size=(6, 4)).astype(np.float32)
    unembedding = rng.integers(-1, 2, size=(25, 4)).astype(np.float32)
    gold, said = rng.permuted(np.tile(np.arange(25), (6, 1)), axis=1)[:, :2], rng.integers(0, 25, size=6)
    given_ = (states, np.ones(4, np.float32), 0.0, unembedding, gold, said, (np.array([0]), np.array([1, 2])))
    with patch.object(blockwise, "COLUMNS", columns):
        found = dict(zip(FIELDS, lens(*given_), strict=True))
    wanted = dict(zip(FIELDS, naive_lens(*given_), strict=True))
    for name in ("margin_gold", "margin_pred", "rank_gold"):
        np.testing.assert_array_equal(found[name], wanted[name])
    np.testing.assert_allclose(found["lens_entropy"], wanted["lens_entropy"], atol=1e-5)


def test_the_norm_is_the_root_mean_square_norm():
    states = np.array([[3.0, 4.0]])
    np.testing.assert_allclose(normed(states, np.array([1.0, 2.0]), 0.0), [[3 / 12.5**0.5, 8 / 12.5**0.5]], rtol=1e-6)


@pytest.mark.parametrize("shift", [-500.0, 500.0])
def test_logits_far_from_zero_keep_their_entropy(shift):
    """Exponentials are taken beside the largest logit: nothing overflows, nothing vanishes."""
    unembedding = np.concatenate([np.full((9, 1), shift), np.zeros((9, 1))], axis=1).astype(np.float32)
    states = np.array([[2.0, 0.0]], np.float32)
    found = lens(states, np.ones(2), 0.0, unembedding, np.array([[3]]), np.array([3]), (np.array([1]), np.array([2])))
    assert found[FIELDS.index("lens_entropy"), 0] == pytest.approx(np.log(9), abs=1e-5)
    assert found[FIELDS.index("lens_log_prob_gold"), 0] == pytest.approx(-np.log(9), abs=1e-5)
