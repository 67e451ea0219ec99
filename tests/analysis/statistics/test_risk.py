"""Risk-coverage curves against what their definition gives, order by order."""

from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vlmlake.analysis.statistics.risk import risk_curve, weighted_risks


def _by_definition(scores, correct, coverages):
    """Mean over all orders that the scores allow of risk at each coverage, and of the mean over all coverages."""
    n, orders = len(scores), []
    for order in permutations(range(n)):
        if all(scores[first] >= scores[second] for first, second in pairwise(order)):
            errors = np.cumsum([1 - correct[place] for place in order])
            running = errors / np.arange(1, n + 1)
            at = [np.interp(c * n, np.arange(n + 1), [0, *errors]) / (c * n) for c in coverages]
            orders.append([*at, running.mean()])
    return np.mean(orders, axis=0)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=3, max_size=6))
def test_ties_count_as_the_mean_over_all_orders(rows):
    scores, correct = (np.array(column, float) for column in zip(*rows, strict=True))
    coverages = [k / len(rows) for k in range(1, len(rows) + 1)]
    found = weighted_risks(scores, correct, np.ones((1, len(rows)), int), coverages)[0]
    np.testing.assert_allclose(found[:-1], _by_definition(scores, correct, coverages), atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.integers(5, 80), st.integers(0, 2**32 - 1), st.booleans())
def test_weights_count_as_copies(n, seed, ties):
    rng = np.random.default_rng(seed)
    scores, correct = rng.normal(size=n), (rng.random(n) < 0.7).astype(float)
    scores = scores.round() if ties else scores
    weights = rng.integers(0, 4, (3, n))
    assume((weights.sum(axis=1) > 0).all())
    for row, found in zip(weights, weighted_risks(scores, correct, weights), strict=True):
        copied = weighted_risks(np.repeat(scores, row), np.repeat(correct, row), np.ones((1, row.sum()), int))
        np.testing.assert_allclose(found, copied[0], atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.integers(5, 80), st.integers(0, 2**32 - 1))
def test_the_best_order_has_no_excess_and_no_order_has_less(n, seed):
    rng = np.random.default_rng(seed)
    correct, weights = (rng.random(n) < 0.7).astype(float), np.ones((1, n), int)
    best = weighted_risks(correct + rng.random(n) / 2, correct, weights)[0]
    other = weighted_risks(rng.normal(size=n), correct, weights)[0]
    assert best[-1] == pytest.approx(0, abs=1e-12)
    assert other[-1] >= -1e-12
    assert other[-2] - other[-1] == pytest.approx(best[-2])


def test_a_constant_confidence_has_the_error_rate_everywhere():
    correct = np.repeat([1.0, 0.0], [70, 30])
    curve = risk_curve(np.zeros(100), correct, np.arange(100), seed=0)
    assert [risk.value for risk in curve.risks] == pytest.approx([0.3] * 10)
    assert curve.aurc.value == pytest.approx(0.3)


def test_risk_at_full_coverage_is_the_error_rate_and_at_half_that_of_the_confident_half():
    scores, correct = np.arange(100.0), (np.arange(100) >= 20).astype(float)
    curve = risk_curve(scores, correct, np.arange(100), seed=0, coverages=(0.5, 0.9, 1.0))
    assert [risk.value for risk in curve.risks] == pytest.approx([0.0, 10 / 90, 0.2])


def test_where_no_answer_is_wrong_the_upper_bound_is_above_0():
    """0 wrong of 50 answers of 25 images: Wilson's bound for 25."""
    scores, correct = np.arange(100.0), (np.arange(100) >= 20).astype(float)
    first = risk_curve(scores, correct, np.arange(100) // 2, seed=0, coverages=(0.5,)).risks[0]
    assert (first.value, first.low, first.interval) == (0, 0, "Wilson, images answered")
    assert first.high == pytest.approx(0.133, abs=0.001)
