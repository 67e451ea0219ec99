"""A value among controls, and drops over several variants that differ by chance."""

import numpy as np
import pytest
from scipy import stats

from vlmlake.analysis.statistics.controls import rank_among, spread_of_controls
from vlmlake.analysis.statistics.paired import mcnemar, paired_contrast, paired_drop, paired_drop_over_several


def draw(seed, n=240, variants=4):
    rng = np.random.default_rng(seed)
    image = np.repeat(np.arange(n // 4), 4)
    ease = rng.normal(size=n // 4)[image]
    before = (ease + rng.normal(size=n) < 1).astype(float)
    several = (ease + rng.normal(size=(variants, n)) < 0.5).astype(float)
    return before, several, image


def test_the_rank_is_that_of_scipys_permutation_p_value():
    """scipy counts the observed value among the draws, too, where they are not all there are."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(0.5, size=30), rng.normal(size=30)
    test = stats.permutation_test(
        (first, second),
        lambda one, other: one.mean() - other.mean(),
        n_resamples=199,
        alternative="greater",
        rng=np.random.default_rng(1),
        vectorized=False,
    )
    rank, p_value = rank_among(test.statistic, test.null_distribution)
    assert p_value == pytest.approx(test.pvalue)
    assert rank == round(200 * test.pvalue)


def test_p_values_among_controls_are_uniform_where_nothing_is():
    rng = np.random.default_rng(2)
    p_values = [rank_among(row[0], row[1:])[1] for row in rng.normal(size=(2000, 20))]
    assert min(p_values) == 1 / 20
    for level in (0.05, 0.2, 0.5):
        assert np.mean(np.array(p_values) <= level + 1e-9) == pytest.approx(level, abs=0.03)


def test_ties_count_as_larger_also_after_rounding():
    assert rank_among(0.3, np.array([0.1 + 0.2, 0.3, 0.2])) == (3, 0.75)
    assert rank_among(0.1 + 0.2, np.array([0.3, 0.2])) == (2, 2 / 3)


def test_controls_are_told_by_the_percentiles_that_hold_most_of_them():
    found = spread_of_controls(np.arange(101.0))
    assert (found.value, found.low, found.high) == pytest.approx((50, 2.5, 97.5))
    assert (found.interval, found.p_value) == ("2.5 to 97.5 % of 101 controls", None)


@pytest.mark.parametrize("seed", range(3))
def test_several_variants_that_are_alike_are_one(seed):
    before, several, image = draw(seed)
    one = several[0]
    alone, together = paired_drop(before, one, image), paired_drop_over_several(before, np.stack([one, one]), image)
    assert (together.value, together.low, together.high) == pytest.approx((alone.value, alone.low, alone.high))
    assert together.p_value is None


@pytest.mark.parametrize("seed", range(3))
def test_a_contrast_has_the_interval_of_its_paired_difference(seed):
    before, several, image = draw(seed)
    found = paired_contrast(several, before, image, seed)
    sums = np.bincount(image, several.mean(axis=0) - before)
    half = stats.t.ppf(0.975, len(sums) - 1) * np.std(sums, ddof=1) * np.sqrt(len(sums)) / len(before)
    assert found.value == pytest.approx((several.mean(axis=0) - before).mean())
    assert found.high - found.low == pytest.approx(2 * half, rel=0.12)
    only = ((several[0] > before).sum(), (several[0] < before).sum())
    assert found.p_value == mcnemar(int(only[0]), int(only[1]))


def test_where_nothing_differs_the_intervals_are_those_of_the_drop():
    before, _, image = draw(0)
    alone = paired_drop(before, before, image)
    for found in (
        paired_drop_over_several(before, np.stack([before, before]), image),
        paired_contrast(before[None], before, image, 0),
    ):
        assert (found.value, found.low, found.high) == (0, alone.low, alone.high)
        assert found.interval == alone.interval
    assert alone.low < 0 < alone.high


def test_the_drop_over_several_covers_the_truth_and_only_grouped_ones():
    """Every other image, by chance, is answered wrong whatever the variant: what its examples share."""
    truth = stats.norm.cdf(1 / np.sqrt(2)) - 0.5 * stats.norm.cdf(0.5 / np.sqrt(2))
    covered = []
    for seed in range(200):
        before, several, image = draw(seed, 160)
        several[:, (np.random.default_rng(1000 + seed).random(40) < 0.5)[image]] = 0
        found = [paired_drop_over_several(before, several, one) for one in (image, np.arange(160))]
        covered.append([one.low <= truth <= one.high for one in found])
    grouped, alone = np.mean(covered, axis=0)
    assert 0.90 <= grouped <= 0.99
    assert alone < 0.85
