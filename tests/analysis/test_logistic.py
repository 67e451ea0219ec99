import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from vlmlake.analysis.neurons.l1 import l1_logistic
from vlmlake.analysis.probes import logistic as module
from vlmlake.analysis.probes.calibration import platt
from vlmlake.analysis.probes.logistic import logistic
from vlmlake.analysis.probes.preconditioner import is_steep, spectrum
from vlmlake.analysis.probes.standardised import Standardised
from vlmlake.errors import VlmlakeError


def drawn(n, d, correlated, right, seed, float16=False):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, d))
    if correlated:
        common = rng.normal(size=(n, 3)) * [30, 10, 3]
        features += common @ rng.normal(size=(3, d))
    features = features * np.exp(rng.normal(size=d)) + rng.normal(size=d)
    labels = (rng.random(n) < right).astype(float)
    labels[:4] = [0, 1, 0, 1]
    features[:, 0] += labels * features[:, 0].std()
    return features.astype(np.float16 if float16 else np.float32), labels


def reference(features, labels, train):
    scaler = StandardScaler().fit(features[train].astype(np.float64))
    scaled = scaler.transform(features.astype(np.float64))
    model = LogisticRegression(max_iter=20_000, tol=1e-9).fit(scaled[train], labels[train])
    return model, scaled


@settings(max_examples=20, deadline=None)
@given(
    n=st.integers(20, 90),
    d=st.integers(1, 120),
    correlated=st.booleans(),
    right=st.sampled_from([0.1, 0.5, 0.9]),
    float16=st.booleans(),
    seed=st.integers(0, 2**20),
)
def test_every_regression_is_scikit_learns(n, d, correlated, right, float16, seed):
    features, labels = drawn(n, d, correlated, right, seed, float16)
    rng = np.random.default_rng(seed)
    training = rng.random((3, n)) < [[1], [0.8], [0.6]]
    training[:, :4] = True
    several = np.stack([labels, labels, rng.permutation(labels)])
    several[2, :2] = [0, 1]
    found = logistic(features, several, training, tolerance=3e-6)
    for number in range(3):
        model, scaled = reference(features, several[number], training[number])
        np.testing.assert_allclose(found.weights[number], model.coef_[0], atol=2e-3)
        assert found.intercepts[number] == pytest.approx(model.intercept_[0], abs=2e-3)
        wanted = model.predict_proba(scaled)[:, 1]
        np.testing.assert_allclose(1 / (1 + np.exp(-found.logits[number])), wanted, atol=2e-3)


@pytest.mark.parametrize("correlated", [False, True], ids=["independent", "correlated"])
@pytest.mark.parametrize(("n", "d"), [(300, 40), (200, 500)], ids=["tall", "wide"])
def test_at_its_own_tolerance_the_ranking_is_scikit_learns(n, d, correlated):
    features, labels = drawn(n, d, correlated, 0.7, 0)
    train = np.arange(n) < 0.7 * n
    found = logistic(features, labels[None], train[None]).logits[0]
    scaler = StandardScaler().fit(features[train])
    model = LogisticRegression(max_iter=2000).fit(scaler.transform(features[train]), labels[train])
    wanted = roc_auc_score(labels[~train], model.decision_function(scaler.transform(features[~train])))
    assert roc_auc_score(labels[~train], found[~train]) == pytest.approx(wanted, abs=0.003)


def test_independent_features_are_left_where_scikit_learn_leaves_them():
    """With more independent features than examples its default tolerance stops early: so does this."""
    features, labels = drawn(200, 500, False, 0.7, 1)
    model = LogisticRegression().fit(StandardScaler().fit_transform(features), labels)
    found = logistic(features, labels[None], np.ones((1, 200), bool))
    assert found.iterations[0] == pytest.approx(model.n_iter_[0], abs=1)
    np.testing.assert_allclose(found.weights[0], model.coef_[0], atol=0.03 * abs(model.coef_).max())


def test_correlated_features_take_few_iterations():
    features, labels = drawn(200, 400, True, 0.7, 2)
    given = Standardised.of(features, np.ones((1, 200), bool))
    assert is_steep(given.centred, given.scale[0])
    assert logistic(features, labels[None], np.ones((1, 200), bool)).iterations[0] <= 40


def test_the_spectrums_leading_directions_are_those_of_the_svd():
    features, _ = drawn(100, 60, True, 0.7, 3)
    given = Standardised.of(features, np.ones((1, 100), bool))
    found = spectrum(given.centred, given.scale[0], 8)
    wanted = np.linalg.svd((given.centred / given.scale[0]).astype(np.float64))
    np.testing.assert_allclose(found.eigenvalues[:3], wanted.S[:3] ** 2, rtol=1e-3)
    np.testing.assert_allclose(abs(found.directions[:3] @ wanted.Vh[:3].T), np.eye(3), atol=0.02)


def test_moments_are_those_of_each_training_part_and_a_constant_feature_counts_for_nothing():
    rng = np.random.default_rng(4)
    features = rng.normal(size=(50, 4)).astype(np.float32) * [1, 100, 0.01, 1] + [0, 0, 1000, 0]
    features[:, 3] = 0.1
    features = np.column_stack([features, np.where(np.arange(50) < 40, 2.5, 3.5)]).astype(np.float32)
    training = np.stack([np.arange(50) < 40, np.arange(50) >= 10])
    found = Standardised.of(features, training)
    for number, rows in enumerate(training):
        scaler = StandardScaler().fit(features[rows].astype(np.float64))
        np.testing.assert_allclose(found.scale[number], scaler.scale_, rtol=1e-4)
    labels = np.tile(np.arange(50) % 2, (2, 1))
    fitted = logistic(features, labels, training)
    assert fitted.weights[0, 3] == fitted.weights[1, 3] == 0
    assert abs(fitted.weights[0, 4]) < 1e-6


def test_what_cannot_be_fitted_is_refused_by_name(monkeypatch):
    features, labels = drawn(30, 3, False, 0.5, 0)
    with pytest.raises(VlmlakeError, match="one class only"):
        logistic(features, np.ones((1, 30)), np.ones((1, 30), bool))
    broken = features.copy()
    broken[3, 1] = np.nan
    with pytest.raises(VlmlakeError, match="1 of 3 features are no number somewhere"):
        logistic(broken, labels[None], np.ones((1, 30), bool))
    monkeypatch.setattr(module, "MOST_ITERATIONS", 1)
    with pytest.raises(VlmlakeError, match="not converged in 1 iterations"):
        logistic(features, labels[None], np.ones((1, 30), bool), tolerance=1e-9)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**20), strength=st.sampled_from([0.05, 0.3, 1.0]), correlated=st.booleans())
def test_l1_weights_meet_the_conditions_of_the_minimum(seed, strength, correlated):
    features, labels = drawn(60, 30, correlated, 0.6, seed)
    train = np.arange(60) < 50
    weights, logits = l1_logistic(features, labels, train[None], np.array([strength]))
    scaler = StandardScaler().fit(features[train].astype(np.float64))
    scaled = scaler.transform(features.astype(np.float64))[train]
    residuals = 1 / (1 + np.exp(-logits[0, train].astype(np.float64))) - labels[train]
    slope = strength * residuals @ scaled
    used = weights[0] != 0
    assert abs(residuals.sum()) * strength < 0.05
    np.testing.assert_allclose(slope[used], -np.sign(weights[0][used]), atol=0.05)
    assert (abs(slope[~used]) <= 1.05).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**20), shift=st.floats(0, 5), scale=st.sampled_from([1e-3, 1, 1e3]))
def test_platts_sigmoid_is_the_maximum_likelihood_on_its_targets(seed, shift, scale):
    rng = np.random.default_rng(seed)
    correct = (rng.random(80) < 0.7).astype(float)
    correct[:2] = [0, 1]
    scores = scale * (rng.normal(size=80) + shift * correct)
    slope, offset = platt(scores, correct)
    right, wrong = correct.sum(), 80 - correct.sum()
    targets = np.where(correct == 1, (right + 1) / (right + 2), 1 / (wrong + 2))
    residuals = 1 / (1 + np.exp(-(slope * scores + offset))) - targets
    assert abs(residuals.sum()) < 1e-4
    assert abs(residuals @ scores) < 1e-4 * scale * 10


def test_platts_sigmoid_of_scores_that_part_the_classes_is_finite():
    slope, offset = platt(np.array([-2.0, -1, 1, 2]), np.array([0, 0, 1, 1]))
    assert np.isfinite([slope, offset]).all()
    with pytest.raises(VlmlakeError, match="1 of 2 scores are no number"):
        platt(np.array([np.nan, 1]), np.array([0, 1]))


@pytest.mark.parametrize("size", [1e-23, 1e-30, 1e-42], ids=["few bits", "square 0", "subnormal"])
def test_a_feature_whose_square_float32_cannot_hold_passes_for_constant(size):
    features, labels = drawn(60, 5, False, 0.5, 3)
    training = np.arange(60)[None] < 40
    small = features * np.array([1, 1, size, 1, 1], np.float32)
    assert Standardised.of(small, training).scale[0, 2] == 1
    found, without = (logistic(one, labels[None], training) for one in (small, np.delete(features, 2, axis=1)))
    np.testing.assert_allclose(found.logits, without.logits, atol=1e-5)
