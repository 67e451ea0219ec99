"""Every estimator gives what scipy, scikit-learn or statsmodels give on random data."""

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import brier_score_loss, f1_score, precision_score, roc_auc_score
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from vlmlake.analysis.statistics.bootstrap import bootstrapped, drawn, image_weights
from vlmlake.analysis.statistics.calibration import brier, expected_calibration_error, weighted_brier, weighted_gaps
from vlmlake.analysis.statistics.correlation import pearson, point_biserial
from vlmlake.analysis.statistics.delong import delong
from vlmlake.analysis.statistics.multiple import holm
from vlmlake.analysis.statistics.paired import mcnemar, paired_drop
from vlmlake.analysis.statistics.proportions import proportion, ratio, wilson
from vlmlake.analysis.statistics.roc import auroc, weighted_auroc

FEW = settings(max_examples=40, deadline=None)


@st.composite
def scored(draw, least=8, most=60, ties=True):
    """Scores, labels of both classes, and images with some examples each."""
    n = draw(st.integers(least, most))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    correct = (rng.random(n) < draw(st.floats(0.2, 0.8))).astype(float)
    assume(1 < correct.sum() < n - 1)
    scores = rng.normal(size=n) + draw(st.floats(-1, 3)) * correct
    if ties and draw(st.booleans()):
        scores = scores.round()
    images = np.sort(rng.integers(0, max(3, n // draw(st.integers(1, 4))), n))
    assume(np.ptp(scores) > 0 and len(np.unique(images)) > 2)
    return scores, correct, images


@FEW
@given(scored())
def test_a_correlation_of_single_examples_is_scipys(data):
    scores, correct, _ = data
    found = point_biserial(scores, correct, np.arange(len(scores)), "x")
    wanted = stats.pointbiserialr(correct, scores)
    interval = stats.pearsonr(scores, correct).confidence_interval()
    assert (found.value, found.p_value) == (pytest.approx(wanted.statistic), pytest.approx(wanted.pvalue))
    assert (found.low, found.high) == (pytest.approx(interval.low), pytest.approx(interval.high))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_correlations_error_over_images_is_that_of_leaving_images_out(seed):
    """The jackknife over images (Efron 1982) and the bootstrap of images estimate the same standard error."""
    rng = np.random.default_rng(seed)
    images = np.repeat(np.arange(150), 4)
    x, y = rng.normal(size=(2, 150))[:, images] + rng.normal(size=(2, 600))
    y += 0.5 * x
    found = pearson(x, y, images, "x")
    left_out = [np.arctanh(np.corrcoef(x[images != one], y[images != one])[0, 1]) for one in range(150)]
    jackknife = np.sqrt(149 * np.var(left_out))
    half = (np.arctanh(found.high) - np.arctanh(found.low)) / 2 / stats.t.ppf(0.975, 149)
    assert half == pytest.approx(jackknife, rel=0.05)

    def correlation(weights):
        mean = (weights @ np.stack([x, y, x * y, x * x, y * y], 1)) / weights.sum(1, keepdims=True)
        return (mean[:, 2] - mean[:, 0] * mean[:, 1]) / np.sqrt(
            (mean[:, 3] - mean[:, 0] ** 2) * (mean[:, 4] - mean[:, 1] ** 2)
        )

    other = bootstrapped(correlation, images, seed=0)
    assert (found.high - found.low) / (other.high - other.low) == pytest.approx(1, abs=0.15)


@FEW
@given(st.integers(1, 500), st.floats(0, 1))
def test_wilson_is_statsmodels(n, share):
    successes = round(share * n)
    assert wilson(successes, n) == pytest.approx(proportion_confint(successes, n, method="wilson"), abs=1e-12)


@FEW
@given(scored())
def test_a_share_of_single_examples_has_statsmodels_interval(data):
    _, correct, _ = data
    found = proportion(correct, np.arange(len(correct)))
    wanted = proportion_confint(correct.sum(), len(correct), method="wilson")
    assert (found.low, found.high) == pytest.approx(wanted)


@FEW
@given(scored(least=40, most=120))
def test_the_effective_number_of_examples_follows_from_statsmodels_error_over_images(data):
    _, correct, images = data
    robust = sm.OLS(correct, np.ones(len(correct))).fit(cov_type="cluster", cov_kwds={"groups": images}, use_t=True)
    share, groups = correct.mean(), len(np.unique(images))
    price = (stats.norm.ppf(0.975) / stats.t.ppf(0.975, groups - 1)) ** 2
    effective = max(1, min(len(correct), share * (1 - share) / robust.bse[0] ** 2) * price)
    found = proportion(correct, images)
    assert found.value == pytest.approx(share)
    assert (found.low, found.high) == pytest.approx(
        proportion_confint(share * effective, effective, method="wilson"), abs=1e-9
    )


@FEW
@given(scored(), st.integers(0, 100))
def test_weighted_auroc_is_scikit_learns(data, seed):
    scores, correct, _ = data
    weights = np.random.default_rng(seed).integers(1, 5, (4, len(scores)))
    wanted = [roc_auc_score(correct, scores, sample_weight=row) for row in weights]
    np.testing.assert_allclose(weighted_auroc(scores, correct, weights), wanted)


@FEW
@given(scored())
def test_delong_has_the_area_of_scikit_learn_and_the_variance_of_all_pairs(data):
    scores, correct, _ = data
    right, wrong = scores[correct == 1], scores[correct == 0]
    wins = (right[:, None] > wrong) + (right[:, None] == wrong) / 2
    variance = wins.mean(1).var(ddof=1) / len(right) + wins.mean(0).var(ddof=1) / len(wrong)
    assume(variance > 0)
    found = delong(scores, correct)
    assert found.value == pytest.approx(roc_auc_score(correct, scores))
    half = stats.norm.ppf(0.975) * np.sqrt(variance)
    assert (found.low, found.high) == pytest.approx((max(0, found.value - half), min(1, found.value + half)))


@pytest.mark.parametrize("separation", [0.3, 1.0, 1.8])
def test_delong_and_the_bootstrap_agree_where_every_example_has_its_image(separation):
    rng = np.random.default_rng(7)
    correct = (rng.random(800) < 0.7).astype(float)
    scores = rng.normal(size=800) + separation * correct
    formula, resampled = delong(scores, correct), auroc(scores, correct, np.arange(800), seed=0)
    assert formula.value == pytest.approx(resampled.value)
    assert (formula.low, formula.high) == pytest.approx((resampled.low, resampled.high), abs=0.006)


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_holm_is_statsmodels(m, seed):
    p_values = np.random.default_rng(seed).random(m).round(2) ** 3
    np.testing.assert_allclose(holm(p_values), multipletests(p_values, method="holm")[1], atol=1e-15)


@FEW
@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_is_statsmodels(only_first, only_second):
    wanted = 1.0
    if only_first + only_second:
        wanted = statsmodels_mcnemar([[5, only_first], [only_second, 9]], exact=True).pvalue
    assert mcnemar(only_first, only_second) == pytest.approx(wanted, rel=1e-9)


@FEW
@given(scored(), st.integers(0, 100))
def test_a_paired_drop_over_images_is_statsmodels_cluster_robust_mean(data, seed):
    _, before, images = data
    after = (np.random.default_rng(seed).random(len(before)) < 0.5).astype(float)
    difference = before - after
    assume(np.ptp(difference) > 0 and len(np.unique(images)) < len(images))
    robust = sm.OLS(difference, np.ones(len(before))).fit(cov_type="cluster", cov_kwds={"groups": images}, use_t=True)
    found = paired_drop(before, after, images)
    low, high = robust.conf_int()[0]
    assert found.value == pytest.approx(robust.params[0], abs=1e-12)
    assert (found.low, found.high) == pytest.approx((max(-1, low), min(1, high)))


@FEW
@given(scored(), st.integers(0, 100))
def test_weighted_brier_is_scikit_learns(data, seed):
    scores, correct, images = data
    probabilities = 1 / (1 + np.exp(-scores))
    weights = np.random.default_rng(seed).integers(1, 5, (4, len(scores)))
    wanted = [brier_score_loss(correct, probabilities, sample_weight=row) for row in weights]
    np.testing.assert_allclose(weighted_brier(probabilities, correct, weights), wanted)
    found = brier(probabilities, correct, images, seed)
    assert found.value == pytest.approx(brier_score_loss(correct, probabilities))
    assert found.low <= found.value <= found.high


@FEW
@given(scored(), st.integers(0, 100))
def test_calibration_error_is_that_of_bins_filled_one_by_one(data, seed):
    scores, correct, images = data
    probabilities = np.clip((scores + 2) / 5, 0, 1)
    weights = np.random.default_rng(seed).integers(1, 5, (3, len(scores)))
    for row, gaps in zip(weights, weighted_gaps(probabilities, correct, weights), strict=True):
        wanted = 0.0
        for number in range(10):
            inside = (probabilities > number / 10) & (probabilities <= (number + 1) / 10)
            inside |= (number == 0) & (probabilities == 0)
            wanted += abs((row * (probabilities - correct))[inside].sum())
        assert np.abs(gaps).sum() == pytest.approx(wanted / row.sum())
    whole = expected_calibration_error(probabilities, correct, images, seed)
    assert 0 <= whole.low <= whole.value <= whole.high


@FEW
@given(scored(least=20), st.integers(0, 100))
def test_ratios_are_scikit_learns_precision_and_f1(data, seed):
    scores, gold, images = data
    said = (scores > 0.3).astype(float)
    assume(said.sum() > 5)
    hits = said * gold
    assume(len(np.unique(images[said == 1])) > 3)
    assert ratio(hits, said, images, seed).value == pytest.approx(precision_score(gold, said))
    assert ratio(2 * hits, said + gold, images, seed).value == pytest.approx(f1_score(gold, said))


@FEW
@given(scored(), st.integers(0, 100))
def test_resamples_draw_whole_images_and_as_many_as_there_are(data, seed):
    _, _, images = data
    weights = image_weights(images, seed, resamples=20)
    assert all(len(np.unique(weights[:, images == image], axis=1)[0]) == 1 for image in np.unique(images))
    firsts = np.unique(images, return_index=True)[1]
    assert (weights[:, firsts].sum(axis=1) == len(firsts)).all()
    sums = drawn(lambda weights: weights.sum(axis=1).astype(float), images, seed, resamples=20)[1]
    np.testing.assert_array_equal(sums, weights.sum(axis=1))
