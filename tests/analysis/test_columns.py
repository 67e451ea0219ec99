"""Estimators over many columns at once: each column's estimate is that of the column alone."""

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from vlmlake.analysis.statistics.bootstrap import bootstrapped, bootstrapped_together
from vlmlake.analysis.statistics.correlation import point_biserial, point_biserials
from vlmlake.analysis.statistics.estimate import Estimate
from vlmlake.analysis.statistics.means import group_sums, mean, means
from vlmlake.errors import VlmlakeError

quick = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def draw(seed, n=60, columns=5, images=None):
    rng = np.random.default_rng(seed)
    groups = (
        np.arange(n) if images is None else np.concatenate([np.arange(images), rng.integers(0, images, n - images)])
    )
    correct = (np.arange(n) % 3 > 0).astype(float)
    values = rng.normal(size=(n, columns)) + 0.5 * correct[:, None] + rng.normal(size=(n, columns))[groups]
    return values, correct, groups.astype(str)


@quick
@given(seed=seeds)
def test_correlations_of_distinct_images_are_scipys(seed):
    values, correct, images = draw(seed)
    for column, found in zip(values.T, point_biserials(values, correct, images, ["x"] * 5), strict=True):
        wanted = stats.pointbiserialr(correct, column)
        interval = stats.pearsonr(correct, column).confidence_interval()
        assert found.value == pytest.approx(wanted.statistic)
        assert found.p_value == pytest.approx(wanted.pvalue)
        assert (found.low, found.high) == pytest.approx(tuple(interval))


@quick
@given(seed=seeds)
def test_a_columns_correlation_does_not_hang_on_the_others(seed):
    values, correct, images = draw(seed, images=15)
    values[:, 2] = 3.0
    values[4, 3] = np.nan
    names = [f"metric {number}" for number in range(5)]
    together = point_biserials(values, correct, images, names)
    for number in (0, 1, 4):
        found, alone = together[number], point_biserial(values[:, number], correct, images, names[number])
        assert found.interval == alone.interval
        assert (found.value, found.low, found.high, found.p_value) == pytest.approx(
            (alone.value, alone.low, alone.high, alone.p_value)
        )
    assert "metric 2 is constant over all 60 examples" in str(together[2])
    assert "metric 3 is no number for 1 of 60 examples" in str(together[3])


@quick
@given(seed=seeds)
def test_means_of_distinct_images_are_statsmodels(seed):
    values, _, images = draw(seed)
    low, high = sm.stats.DescrStatsW(values).tconfint_mean()
    found = means(values, images, ["x"] * 5)
    np.testing.assert_allclose([[one.low, one.high] for one in found], np.stack([low, high], axis=1))
    np.testing.assert_allclose([one.value for one in found], values.mean(0))


@quick
@given(seed=seeds)
def test_means_of_shared_images_are_statsmodels_regression_on_a_constant(seed):
    """Whose small-sample factor is g / (g - 1) (n - 1) / (n - k), with k = 1."""
    values, _, images = draw(seed, images=15)
    for column in values.T:
        found = mean(column, images, "x")
        fitted = sm.OLS(column, np.ones(len(column))).fit(
            cov_type="cluster", cov_kwds={"groups": images.astype(int)}, use_t=True
        )
        assert found.value == pytest.approx(fitted.params[0])
        assert (found.low, found.high) == pytest.approx(tuple(fitted.conf_int()[0]))


def test_the_clustered_mean_covers_the_truth_at_its_nominal_rate_and_the_plain_one_does_not():
    rng = np.random.default_rng(0)
    images = np.repeat(np.arange(40), 6)
    values = rng.normal(size=(240, 200)) + rng.normal(size=(40, 200))[images]
    clustered, plain = (means(values, of, ["x"] * 200) for of in (images, np.arange(240)))
    hits, fewer = (np.mean([one.low <= 0 <= one.high for one in found]) for found in (clustered, plain))
    assert 0.90 <= hits <= 0.99
    assert fewer < 0.8


def test_a_mean_of_a_constant_is_the_constant():
    assert mean(np.full(6, 2.0), np.arange(6) // 2, "x") == Estimate(2.0, 2.0, 2.0, "Student t, images as groups")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: mean(np.array([1.0, np.nan, 2.0]), np.arange(3), "gini at block_1"),
            "gini at block_1 is no number for 1",
        ),
        (lambda: mean(np.ones(3), np.zeros(3), "x"), "1 images, expected at least 2"),
        (lambda: point_biserials(np.ones((9, 2)), np.ones(9), np.arange(9), ["x", "y"]), "9 of 9 answers are right"),
    ],
)
def test_what_means_nothing_is_refused_by_name(call, message):
    with pytest.raises(VlmlakeError, match=message):
        call()


@quick
@given(seed=seeds)
def test_sums_of_groups_are_bincounts(seed):
    rng = np.random.default_rng(seed)
    group = np.unique(rng.integers(0, 9, 40), return_inverse=True)[1]
    values = rng.normal(size=(40, 3))
    wanted = np.stack([np.bincount(group, column) for column in values.T], axis=1)
    np.testing.assert_allclose(group_sums(values, group), wanted, atol=1e-12)


def test_statistics_bootstrapped_together_are_those_of_each_alone():
    values, _, images = draw(3, images=15)

    def weighted(weights):
        return weights @ values / weights.sum(axis=1, keepdims=True)

    def third_without_value(weights):
        found = weighted(weights)
        found[:, 2] = np.nan
        return found

    together = bootstrapped_together(third_without_value, images, seed=4)
    for number in (0, 1, 3, 4):
        alone = bootstrapped(lambda weights, number=number: weighted(weights)[:, number], images, seed=4)
        assert (together[number].low, together[number].value) == pytest.approx((alone.low, alone.value))
    assert isinstance(together[2], VlmlakeError)
