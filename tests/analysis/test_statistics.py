import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from vlmlake.analysis.statistics import auroc, fisher_interval, point_biserial, weighted_auroc, wilson
from vlmlake.errors import VlmlakeError


@pytest.mark.parametrize(
    ("correlation", "low", "high"), [(0.001, -0.034, 0.036), (-0.012, -0.047, 0.023), (0.429, 0.400, 0.457)]
)
def test_fisher_interval_gives_the_studys_golden_values(correlation, low, high):
    """R over 3,090 examples; the second upper end is printed 0.024 in the paper and is 0.023."""
    assert fisher_interval(correlation, 3090) == (pytest.approx(low, abs=5e-4), pytest.approx(high, abs=5e-4))


@pytest.mark.parametrize("seed", range(5))
def test_point_biserial_is_scipys(seed):
    rng = np.random.default_rng(seed)
    correct = (rng.random(60) < 0.7).astype(float)
    values = rng.normal(size=60) + correct
    wanted = stats.pointbiserialr(correct, values)
    found = point_biserial(values, correct, "x")
    assert found.value == pytest.approx(wanted.statistic)
    assert found.p_value == pytest.approx(wanted.pvalue)
    assert found.low < found.value < found.high


def test_fisher_interval_covers_the_truth_at_its_nominal_rate():
    rng = np.random.default_rng(0)
    truth, hits = 0.4, 0
    for _ in range(500):
        x, noise = rng.normal(size=(2, 80))
        y = truth * x + np.sqrt(1 - truth**2) * noise
        low, high = fisher_interval(float(np.corrcoef(x, y)[0, 1]), 80)
        hits += low <= truth <= high
    assert 0.92 <= hits / 500 <= 0.98


@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("seed", range(5))
def test_weighted_auroc_is_scikit_learns(seed, ties):
    rng = np.random.default_rng(seed)
    correct = (rng.random(50) < 0.6).astype(float)
    scores = rng.normal(size=50) + correct
    if ties:
        scores = scores.round(0)
    weights = rng.integers(0, 4, size=(7, 50))
    found = weighted_auroc(scores, correct, weights)
    wanted = [roc_auc_score(correct, scores, sample_weight=row) for row in weights]
    np.testing.assert_allclose(found, wanted)


def test_auroc_interval_resamples_images_not_examples():
    """Copies of an image's examples add nothing: the interval stays as wide as that of the images alone."""
    rng = np.random.default_rng(1)
    correct = (rng.random(80) < 0.5).astype(float)
    scores = rng.normal(size=80) + correct
    images = np.arange(80)
    alone = auroc(scores, correct, images, seed=0)
    copied = auroc(np.repeat(scores, 20), np.repeat(correct, 20), np.repeat(images, 20), seed=0)
    as_if_independent = auroc(np.repeat(scores, 20), np.repeat(correct, 20), np.arange(1600), seed=0)
    assert copied == alone
    assert (copied.high - copied.low) > 3 * (as_if_independent.high - as_if_independent.low)


def test_auroc_of_noise_covers_one_half_at_its_nominal_rate():
    rng = np.random.default_rng(4)
    hits = 0
    for draw in range(200):
        images = np.repeat(np.arange(40), 5)
        correct = (rng.random(200) < 0.7).astype(float)
        found = auroc(rng.normal(size=200), correct, images, seed=draw)
        hits += found.low <= 0.5 <= found.high
    assert 0.90 <= hits / 200 <= 0.99


def test_the_same_seed_gives_the_same_interval():
    rng = np.random.default_rng(2)
    correct, scores = (rng.random(50) < 0.5).astype(float), rng.normal(size=50)
    images = np.arange(50) // 2
    assert auroc(scores, correct, images, seed=3) == auroc(scores, correct, images, seed=3)
    assert auroc(scores, correct, images, seed=3).low != auroc(scores, correct, images, seed=4).low


def test_wilson_gives_the_textbook_interval():
    found = wilson(8, 10)
    assert (found.value, found.low, found.high) == (
        0.8,
        pytest.approx(0.4902, abs=1e-4),
        pytest.approx(0.9433, abs=1e-4),
    )
    assert wilson(0, 10).low == 0.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: point_biserial(np.ones(9), np.arange(9) % 2, "cluster_count"), "cluster_count is constant over all 9"),
        (lambda: point_biserial(np.arange(9.0), np.ones(9), "x"), "9 of 9 answers are right"),
        (lambda: auroc(np.arange(9.0), np.zeros(9), np.arange(9), 0), "0 of 9 answers are right"),
        (lambda: fisher_interval(0.5, 3), "at least 4 examples, got 3"),
        (lambda: wilson(0, 0), "no examples"),
    ],
)
def test_what_means_nothing_is_refused_by_name(call, message):
    with pytest.raises(VlmlakeError, match=message):
        call()
