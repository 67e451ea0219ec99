import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from vlmlake.analysis.statistics.means import mean, mean_difference, means
from vlmlake.errors import VlmlakeError


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 30), st.integers(2, 5))
def test_a_mean_has_statsmodels_cluster_robust_interval(seed, images, questions):
    rng = np.random.default_rng(seed)
    image = np.repeat(np.arange(images), questions)
    values = rng.normal(size=images)[image] + rng.normal(size=len(image))
    fit = sm.OLS(values, np.ones(len(values))).fit(cov_type="cluster", cov_kwds={"groups": image}, use_t=True)
    found = mean(values, image, "x")
    assert found.value == pytest.approx(fit.params[0])
    assert (found.low, found.high) == pytest.approx(tuple(fit.conf_int()[0]))


def test_a_mean_of_an_example_an_image_has_the_usual_t_interval():
    values = np.random.default_rng(0).normal(size=40)
    low, high = stats.t.interval(0.95, 39, values.mean(), stats.sem(values))
    found = mean(values, np.arange(40), "x")
    assert (found.low, found.high) == pytest.approx((low, high))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(4, 30), st.integers(2, 5))
def test_a_difference_of_means_has_the_error_of_leaving_out_each_image(seed, images, questions):
    rng = np.random.default_rng(seed)
    image = np.repeat(np.arange(images), questions)
    n = len(image)
    correct = (rng.permutation(n) % 3 > 0).astype(float)
    values = rng.normal(size=images)[image] + correct + rng.normal(size=n)
    found = mean_difference(values, correct, image, "x")
    difference = values[correct == 1].mean() - values[correct == 0].mean()
    left = [
        values[kept & (correct == 1)].mean() - values[kept & (correct == 0)].mean()
        for kept in (image != one for one in range(images))
    ]
    error = np.sqrt((images - 1) / images * ((np.array(left) - difference) ** 2).sum())
    degrees = min(len(np.unique(image[correct == one])) for one in (0, 1)) - 1
    assert found.value == pytest.approx(difference)
    assert found.high - found.value == pytest.approx(error * stats.t.ppf(0.975, degrees))
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(difference) / error, degrees))


def test_a_difference_of_single_examples_has_statsmodels_hc3_error():
    rng = np.random.default_rng(2)
    correct = (np.arange(60) % 4 > 0).astype(float)
    values = rng.normal(size=60) * (2 - correct)
    fit = sm.OLS(values, sm.add_constant(correct)).fit(cov_type="HC3")
    found = mean_difference(values, correct, np.arange(60), "x")
    assert found.high - found.value == pytest.approx(fit.bse[1] * np.sqrt(59 / 60) * stats.t.ppf(0.975, 14))


def test_intervals_cover_the_truth_at_their_nominal_rate_where_images_share_their_level():
    rng = np.random.default_rng(3)
    hits = np.zeros(2)
    image = np.repeat(np.arange(40), 5)
    for _ in range(400):
        correct = (rng.random(200) < 0.7).astype(float)
        values = rng.normal(size=40)[image] + 0.5 * correct + rng.normal(size=200)
        one, two = mean(values - 0.5 * correct, image, "x"), mean_difference(values, correct, image, "x")
        hits += one.low <= 0 <= one.high, two.low <= 0.5 <= two.high
    assert (hits / 400 > 0.92).all()
    assert (hits / 400 < 0.98).all()


def test_copies_of_an_images_examples_make_no_interval_narrower():
    rng = np.random.default_rng(1)
    values, correct, images = rng.normal(size=50), (np.arange(50) % 2).astype(float), np.arange(50)
    widths = [
        (one.high - one.low, two.high - two.low)
        for k in (1, 10)
        for one in [mean(np.repeat(values, k), np.repeat(images, k), "x")]
        for two in [mean_difference(np.repeat(values, k), np.repeat(correct, k), np.repeat(images, k), "x")]
    ]
    np.testing.assert_allclose(widths[1], widths[0])


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_an_infinite_value_is_refused_without_a_warning_and_the_other_columns_keep_their_means():
    values = np.random.default_rng(0).normal(size=(9, 2))
    alone = mean(values[:, 1], np.arange(9), "y")
    values[4, 0] = -np.inf
    infinite, other = means(values, np.arange(9), ["x", "y"])
    assert str(infinite) == "x is no number for 1 of 9 examples"
    assert (other.value, other.low, other.high) == pytest.approx((alone.value, alone.low, alone.high))


def test_means_refuse_what_is_no_number_and_a_single_image():
    with pytest.raises(VlmlakeError, match="margin is no number for 1 of 3 examples"):
        mean(np.array([1, np.nan, 2]), np.arange(3), "margin")
    with pytest.raises(VlmlakeError, match="1 images, expected at least 2"):
        mean(np.arange(3.0), np.zeros(3), "margin")


def test_a_difference_refuses_one_class_and_a_constant():
    with pytest.raises(VlmlakeError, match="3 of 3 answers are right"):
        mean_difference(np.arange(3.0), np.ones(3), np.arange(3), "margin")
    with pytest.raises(VlmlakeError, match="margin is constant over all 3 examples"):
        mean_difference(np.ones(3), np.array([0, 1, 1]), np.arange(3), "margin")


@pytest.mark.parametrize("wrong", [[4], [4, 5, 6, 7]], ids=["one", "several of one image"])
def test_a_difference_refuses_a_class_that_one_image_holds(wrong):
    correct = np.ones(40)
    correct[wrong] = 0
    values, images = np.random.default_rng(0).normal(size=40), np.arange(40) // 4
    with pytest.raises(VlmlakeError, match="1 images with wrong answers, expected at least 2"):
        mean_difference(values, correct, images, "margin")
    with pytest.raises(VlmlakeError, match="1 images with right answers, expected at least 2"):
        mean_difference(values, 1 - correct, images, "margin")


def test_a_difference_refuses_classes_without_spread_and_columns_that_do_not_match():
    correct = np.arange(12) % 2
    with pytest.raises(VlmlakeError, match="margin differs between right and wrong answers alone"):
        mean_difference(0.1 + 0.2 * correct, correct, np.arange(12) // 3, "margin")
    with pytest.raises(VlmlakeError, match="12 values, 12 labels, 4 images"):
        mean_difference(np.arange(12.0), correct, np.arange(4), "margin")
