"""Intervals cover the truth at their nominal rate where the examples of an image resemble one another."""

import numpy as np
import pytest
from scipy import stats

from vlmlake.analysis.statistics.calibration import brier, expected_calibration_error
from vlmlake.analysis.statistics.correlation import fisher_interval, pearson, point_biserial
from vlmlake.analysis.statistics.delong import delong
from vlmlake.analysis.statistics.means import mean, mean_difference
from vlmlake.analysis.statistics.paired import paired_drop
from vlmlake.analysis.statistics.proportions import proportion, ratio, wilson
from vlmlake.analysis.statistics.risk import risk_curve
from vlmlake.analysis.statistics.roc import auroc

DRAWS = 200
SIZES = pytest.mark.parametrize(("images", "questions"), [(32, 4), (50, 3)])


def _coverage(truth, intervals):
    return np.mean([low <= truth <= high for low, high in intervals])


def _bounds(estimate):
    return estimate.low, estimate.high


def _binary(rng, images, questions, share=0.7, common=0.8):
    """0 or 1 with mean `share`; `common` is the part of the hidden normal's variance that an image's examples share."""
    hidden = np.sqrt(common) * rng.normal(size=(DRAWS, images))[:, np.repeat(np.arange(images), questions)]
    hidden += np.sqrt(1 - common) * rng.normal(size=hidden.shape)
    return hidden, (hidden < stats.norm.ppf(share)).astype(float)


@SIZES
def test_shares_and_only_grouped_ones(images, questions):
    image = np.repeat(np.arange(images), questions)
    _, hits = _binary(np.random.default_rng(1), images, questions)
    assert 0.90 <= _coverage(0.7, [_bounds(proportion(row, image)) for row in hits]) <= 0.99
    assert _coverage(0.7, [wilson(row.sum(), len(row)) for row in hits]) < 0.89


@SIZES
def test_correlations_and_only_grouped_ones(images, questions):
    """Both columns share their image's effect: two normals that correlate by 0.3."""
    rng, image = np.random.default_rng(2), np.repeat(np.arange(images), questions)
    mix = np.linalg.cholesky([[1, 0.3], [0.3, 1]])
    shared, own = rng.normal(size=(DRAWS, images, 2))[:, image], rng.normal(size=(DRAWS, images * questions, 2))
    pairs = (np.sqrt(0.7) * shared + np.sqrt(0.3) * own) @ mix.T
    grouped = [_bounds(pearson(row[:, 0], row[:, 1], image, "x")) for row in pairs]
    alone = [fisher_interval(np.corrcoef(row.T)[0, 1], len(row)) for row in pairs]
    assert 0.90 <= _coverage(0.3, grouped) <= 0.99
    assert _coverage(0.3, alone) < 0.89


@SIZES
@pytest.mark.parametrize("strength", [0.0, 0.5])
def test_point_biserial(images, questions, strength):
    """Correctness is a cut through one of two correlated normals: r times the point-biserial factor of the cut."""
    rng, image = np.random.default_rng(3), np.repeat(np.arange(images), questions)
    hidden, correct = _binary(rng, images, questions)
    values = -strength * hidden + np.sqrt(1 - strength**2) * rng.normal(size=hidden.shape)
    truth = strength * stats.norm.pdf(stats.norm.ppf(0.7)) / np.sqrt(0.7 * 0.3)
    intervals = [
        _bounds(point_biserial(*row, image, "x")) for row in zip(values, correct, strict=True) if 0 < row[1].mean() < 1
    ]
    assert 0.90 <= _coverage(truth, intervals) <= 0.99


def _levels(rng, image, common=0.5):
    """Standard normals, of which an image's examples share a part `common` of the variance."""
    shared = rng.normal(size=(DRAWS, image.max() + 1))[:, image]
    return np.sqrt(common) * shared + np.sqrt(1 - common) * rng.normal(size=shared.shape)


@SIZES
def test_means_and_only_grouped_ones(images, questions):
    image = np.repeat(np.arange(images), questions)
    levels = _levels(np.random.default_rng(10), image)
    assert 0.90 <= _coverage(0, [_bounds(mean(row, image, "x")) for row in levels]) <= 0.99
    assert _coverage(0, [_bounds(mean(row, np.arange(len(row)), "x")) for row in levels]) < 0.89


@SIZES
@pytest.mark.parametrize("common", [0.0, 0.8], ids=["own", "shared"])
def test_differences_of_means(images, questions, common):
    """Right answers lie 0.5 higher; how many of an image's are right may hang on the image."""
    rng, image = np.random.default_rng(11), np.repeat(np.arange(images), questions)
    _, correct = _binary(rng, images, questions, common=common)
    values = _levels(rng, image) + 0.5 * correct
    found = [mean_difference(*row, image, "x") for row in zip(values, correct, strict=True)]
    assert 0.90 <= _coverage(0.5, [_bounds(one) for one in found]) <= 0.99


@pytest.mark.parametrize("common", [0.0, 0.5])
@pytest.mark.parametrize(
    ("wrong", "of"),
    [((1, 1), 50), ((2, 2, 2), 50), ((5, 1), 50), ((4, 1, 1), 50), ((1, 2) * 10, 60)],
    ids=["2 in 2", "6 in 3", "6 in 2", "6 in 3, uneven", "30 in 20"],
)
def test_noise_does_not_differ_between_many_right_and_few_wrong_answers(wrong, of, common):
    """300 examples; `wrong` of them in each of some images."""
    image = np.repeat(np.arange(of), 300 // of)
    place = np.arange(300) % (300 // of)
    correct = (place >= np.pad(wrong, (0, of - len(wrong)))[image]).astype(float)
    assert (correct == 0).sum() == sum(wrong)
    noise = _levels(np.random.default_rng(12), image, common)
    found = [mean_difference(row, correct, image, "x") for row in noise]
    assert np.mean([one.p_value < 0.05 for one in found]) <= 0.06
    assert _coverage(0, [_bounds(one) for one in found]) >= 0.94


@SIZES
def test_auroc_of_two_normals(images, questions):
    """Each image moves its scores together: two classes of standard deviation 1 that are 1 apart."""
    rng, image = np.random.default_rng(4), np.repeat(np.arange(images), questions)
    _, correct = _binary(rng, images, questions)
    shared = rng.normal(size=(DRAWS, images))[:, image]
    scores = correct + np.sqrt(0.5) * shared + np.sqrt(0.5) * rng.normal(size=shared.shape)
    rows = list(zip(scores, correct, range(DRAWS), strict=True))
    grouped = [_bounds(auroc(one, right, image, seed)) for one, right, seed in rows]
    assert 0.90 <= _coverage(stats.norm.cdf(np.sqrt(0.5)), grouped) <= 0.99


def test_auroc_that_is_often_1():
    """Four images with wrong answers among 40, 4 standard deviations apart: the area is 1 in many samples."""
    image, truth = np.repeat(np.arange(40), 3), stats.norm.cdf(4 / np.sqrt(2))
    correct = (image >= 4).astype(float)
    found = [
        auroc(row + 4 * correct, correct, image, seed)
        for seed, row in enumerate(_levels(np.random.default_rng(13), image))
    ]
    assert 0.2 < np.mean([one.value == 1 for one in found]) < 0.8
    assert _coverage(truth, [_bounds(one) for one in found]) >= 0.90


@pytest.mark.parametrize("truth", [0.95, 0.99])
def test_ratios_that_are_often_1(truth):
    """Answers right with the same odds, about half of them counted."""
    rng, image = np.random.default_rng(14), np.repeat(np.arange(32), 2)
    of = (rng.random((DRAWS, 64)) < 0.5).astype(float)
    hits = of * (rng.random(of.shape) < truth)
    found = [ratio(*row, image, seed) for seed, row in enumerate(zip(hits, of, strict=True))]
    assert np.mean([one.value == 1 for one in found]) > 0.1
    assert _coverage(truth, [_bounds(one) for one in found]) >= 0.90


@pytest.mark.parametrize("n", [120, 480])
def test_delong_of_two_normals_without_images(n):
    rng = np.random.default_rng(5)
    correct = (rng.random((DRAWS, n)) < 0.7).astype(float)
    intervals = [_bounds(delong(row + rng.normal(size=n), row)) for row in correct]
    assert 0.90 <= _coverage(stats.norm.cdf(np.sqrt(0.5)), intervals) <= 0.99


@SIZES
def test_brier_of_an_overconfident_probability(images, questions):
    """Says 0.9 where 0.7 are right: 0.7 * 0.01 + 0.3 * 0.81."""
    image = np.repeat(np.arange(images), questions)
    _, correct = _binary(np.random.default_rng(6), images, questions)
    said = np.full(images * questions, 0.9)
    intervals = [_bounds(brier(said, row, image, seed)) for seed, row in enumerate(correct)]
    assert 0.90 <= _coverage(0.25, intervals) <= 0.99


@SIZES
@pytest.mark.parametrize("gap", [0.0, 0.2])
def test_calibration_error_of_right_and_of_overconfident_probabilities(images, questions, gap):
    rng, image = np.random.default_rng(7), np.repeat(np.arange(images), questions)
    said = rng.choice([0.45, 0.65, 0.95], size=(DRAWS, images * questions))
    correct = (rng.random(said.shape) < said - gap).astype(float)
    intervals = [
        _bounds(expected_calibration_error(*row, image, seed))
        for seed, row in enumerate(zip(said, correct, strict=True))
    ]
    assert _coverage(gap, intervals) >= 0.90


@SIZES
def test_paired_drop_and_only_grouped_ones(images, questions):
    """After is right where a noisier hidden number is below a lower cut: 0.7 before, 0.5 after."""
    rng, image = np.random.default_rng(8), np.repeat(np.arange(images), questions)
    hidden, before = _binary(rng, images, questions)
    shared = rng.normal(size=(DRAWS, images))[:, image]
    after = (0.6 * hidden + 0.7 * shared + np.sqrt(1 - 0.36 - 0.49) * rng.normal(size=hidden.shape) < 0).astype(float)
    rows = list(zip(before, after, strict=True))
    assert 0.90 <= _coverage(0.2, [_bounds(paired_drop(*row, image)) for row in rows]) <= 0.99
    alone = [_bounds(paired_drop(*row, np.arange(len(image)))) for row in rows]
    assert _coverage(0.2, alone) < 0.89


def test_risk_at_half_coverage():
    """Right with the probability that the confidence says, from 0.4 to 1: the upper half is wrong in 0.15 of cases."""
    images = 50
    rng, image = np.random.default_rng(9), np.repeat(np.arange(images), 3)
    said = 0.4 + 0.6 * stats.norm.cdf(
        np.sqrt(0.5) * (rng.normal(size=(DRAWS, images))[:, image] + rng.normal(size=(DRAWS, len(image))))
    )
    correct = (rng.random(said.shape) < said).astype(float)
    curves = [
        risk_curve(*row, image, seed, coverages=(0.5,)) for seed, row in enumerate(zip(said, correct, strict=True))
    ]
    assert 0.90 <= _coverage(0.15, [_bounds(curve.risks[0]) for curve in curves]) <= 0.99
