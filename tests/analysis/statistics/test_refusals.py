"""What would mean nothing is refused, and the refusal says what was wrong."""

import numpy as np
import pytest

from vlmlake.analysis.statistics.bootstrap import bootstrapped
from vlmlake.analysis.statistics.calibration import brier, expected_calibration_error
from vlmlake.analysis.statistics.controls import rank_among, spread_of_controls
from vlmlake.analysis.statistics.correlation import correlation_p_value, fisher_interval, pearson, point_biserial
from vlmlake.analysis.statistics.delong import delong
from vlmlake.analysis.statistics.multiple import holm
from vlmlake.analysis.statistics.paired import mcnemar, paired_contrast, paired_drop, paired_drop_over_several
from vlmlake.analysis.statistics.proportions import proportion, ratio, wilson
from vlmlake.analysis.statistics.risk import risk_curve
from vlmlake.analysis.statistics.roc import auroc, auroc_gain, aurocs
from vlmlake.errors import VlmlakeError

X = np.arange(9.0)
HALF = np.arange(9.0) % 2
OWN = np.arange(9)
ONE = np.zeros(9, int)
GAP = np.where(X == 4, np.nan, X)
NONE = np.array([])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: point_biserial(np.ones(9), HALF, OWN, "cluster_count"), "cluster_count is constant over all 9"),
        (lambda: pearson(1e9 + X * 1e-7, HALF, OWN, "x"), "x is constant over all 9"),
        (lambda: point_biserial(X, np.ones(9), OWN, "x"), "9 of 9 answers are right"),
        (lambda: point_biserial(X, HALF / 2, OWN, "x"), "correctness is neither 0 nor 1 for 4 of 9"),
        (lambda: point_biserial(GAP, HALF, OWN, "x"), "x is no number for 1 of 9 examples"),
        (lambda: pearson(X, GAP, OWN, "x"), "what x is compared with is no number for 1 of 9"),
        (lambda: pearson(X, HALF[:8], OWN, "x"), "9 values, 8 others, 9 images: expected one of each"),
        (lambda: pearson(X, HALF, ONE, "x"), "1 images, expected at least 2"),
        (lambda: pearson(X[:3], HALF[:3], OWN[:3], "x"), "at least 4 examples, got 3"),
        (lambda: pearson(X[:3], HALF[:3], np.array([0, 0, 1]), "x"), "at least 4 examples, got 3"),
        (lambda: pearson(NONE, NONE, NONE, "x"), "x of no examples"),
        (lambda: fisher_interval(0.5, 3), "at least 4 examples, got 3"),
        (lambda: correlation_p_value(0.5, 3), "at least 4 examples, got 3"),
        (lambda: auroc(X, np.zeros(9), OWN, 0), "0 of 9 answers are right"),
        (lambda: auroc(GAP, HALF, OWN, 0), "the score is no number for 1 of 9"),
        (lambda: auroc(X, HALF, ONE, 0), "1 images, expected at least 2"),
        (lambda: auroc(X, HALF, OWN[:7], 0), "9 scores, 9 labels, 7 images"),
        (lambda: auroc(X, (X == 3).astype(float), OWN, 0), "are found in 1 images only, expected both in at least 3"),
        (lambda: ratio(HALF, (X == 3).astype(float), OWN, 0), "no value on 3.. of 1000 resamples"),
        (lambda: auroc(np.ones(9), HALF, OWN, 0), "the score is constant over all 9"),
        (lambda: auroc(X // 3, HALF, OWN, 0, X // 3), "the score is constant in every fold that holds right and wrong"),
        (lambda: auroc(X, HALF, OWN, 0, HALF), "no fold holds right and wrong answers together"),
        (lambda: auroc(X, HALF, OWN, 0, X[:4]), "9 labels, 4 strata"),
        (lambda: auroc_gain(np.ones(9), X, HALF, OWN, 0), "the score is constant over all 9"),
        (lambda: auroc_gain(X, np.ones(9), HALF, OWN, 0), "the score that it is compared with is constant over all 9"),
        (lambda: auroc_gain(GAP, X, HALF, OWN, 0), "the score is no number for 1 of 9"),
        (lambda: auroc_gain(X, GAP, HALF, OWN, 0), "the score that it is compared with is no number for 1 of 9"),
        (lambda: auroc_gain(X, X[:7], HALF, OWN, 0), "9 scores, 7 others, 9 labels, 9 images"),
        (lambda: auroc_gain(X, -X, np.ones(9), OWN, 0), "9 of 9 answers are right"),
        (lambda: auroc_gain(X, -X, HALF, ONE, 0), "are found in 1 images only"),
        (lambda: delong(X, np.ones(9)), "9 of 9 answers are right"),
        (lambda: delong(X, (X == 3).astype(float)), "1 right and 8 wrong answers: expected at least 2 of each"),
        (lambda: delong(X, (X > 3).astype(float)), "do not overlap"),
        (lambda: wilson(0, 0), "no examples"),
        (lambda: proportion(NONE, NONE), "no examples"),
        (lambda: proportion(HALF, ONE), "1 images, expected at least 2"),
        (lambda: proportion(X, OWN), "what is counted is neither 0 nor 1 for 7 of 9"),
        (lambda: ratio(HALF, np.zeros(9), OWN, 0), "no value on these examples"),
        (lambda: ratio(NONE, NONE, NONE, 0), "no examples"),
        (lambda: ratio(2 * X[1:], X[1:], OWN[1:], 0), "the ratio is 2 in all resamples of the images: no share"),
        (lambda: paired_drop(HALF, HALF[:5], OWN), "9 before, 5 after, 9 images"),
        (lambda: paired_drop(NONE, NONE, NONE), "the answers before of no examples"),
        (lambda: paired_drop(HALF, np.where(X == 2, np.nan, HALF), OWN), "the answers after is neither 0 nor 1 for 1"),
        (lambda: paired_drop(HALF, HALF, ONE), "1 images, expected at least 2"),
        (lambda: paired_drop_over_several(HALF, HALF[None] / 2, OWN), "the answers after is neither 0 nor 1 for 4"),
        (lambda: paired_drop_over_several(NONE, NONE[None], NONE), "the answers before of no examples"),
        (lambda: paired_drop_over_several(HALF, HALF[None], ONE), "1 images, expected at least 2"),
        (lambda: paired_contrast(np.empty((0, 9)), HALF, OWN, 0), "a contrast with no variants"),
        (lambda: paired_contrast(HALF[None], HALF[:5], OWN, 0), "9 several, 5 one, 9 images"),
        (lambda: paired_contrast(HALF[None] / 2, HALF, OWN, 0), "under the variants is neither 0 nor 1 for 4"),
        (lambda: paired_contrast(HALF[None], HALF, ONE, 0), "1 images, expected at least 2"),
        (lambda: spread_of_controls(X[:1]), "1 control, expected at least 2"),
        (lambda: spread_of_controls(GAP), "the value of a control is no number for 1 of 9"),
        (lambda: rank_among(1.0, NONE), "the value of a control of no examples"),
        (lambda: rank_among(np.nan, X), "the value that is ranked is no number"),
        (lambda: mcnemar(-1, 3), "-1 and 3 pairs differ"),
        (lambda: brier(X, HALF, OWN, 0), "7 of 9 confidences are not between 0 and 1"),
        (lambda: brier(GAP / 9, HALF, OWN, 0), "the probability is no number for 1 of 9"),
        (lambda: brier(NONE, NONE, NONE, 0), "the probability of no examples"),
        (lambda: expected_calibration_error(X / 9, HALF, ONE, 0), "1 images, expected at least 2"),
        (lambda: risk_curve(X, np.ones(9), OWN, 0), "9 of 9 answers are right"),
        (lambda: risk_curve(GAP, HALF, OWN, 0), "the confidence is no number for 1 of 9"),
        (lambda: risk_curve(X, HALF, OWN, 0, coverages=(0.0,)), "expected shares above 0"),
        (lambda: holm(np.array([0.1, np.nan])), "not between 0 and 1"),
        (lambda: bootstrapped(lambda w: np.full(len(w), np.nan), OWN, 0), "no value on these examples"),
    ],
)
def test_what_means_nothing_is_refused_by_name(call, message):
    with pytest.raises(VlmlakeError, match=message):
        call()


def test_no_p_values_need_no_correction():
    assert holm(NONE).shape == (0,)


def test_pairs_that_never_differ_have_no_drop_but_an_interval():
    found = paired_drop(HALF, HALF, OWN)
    assert (found.value, found.p_value) == (0, 1)
    assert found.high == -found.low == pytest.approx(wilson(0, 9)[1])


def test_a_share_without_a_miss_counts_images_not_examples():
    found = proportion(np.ones(40), np.repeat(np.arange(10), 4))
    assert (found.value, found.high) == (1, 1)
    assert found.low == pytest.approx(wilson(10, 10)[0])


def test_of_many_scores_those_that_vary_have_an_area():
    found = aurocs(np.stack([X, np.ones(9), GAP]), HALF, OWN, 0)
    assert found[0] == auroc(X, HALF, OWN, 0)
    assert [isinstance(one, VlmlakeError) for one in found] == [False, True, True]


TRIPLES = np.repeat(np.arange(20), 3)
FEW_WRONG = np.where(np.isin(TRIPLES, (0, 1, 2, 3)), 0.0, 1.0)


@pytest.mark.parametrize(("scores", "value"), [(FEW_WRONG, 1), (-FEW_WRONG, 0)])
def test_classes_that_do_not_overlap_have_an_interval_of_the_rarer_ones_images(scores, value):
    found = auroc(scores, FEW_WRONG, TRIPLES, 0)
    assert (found.value, found.interval) == (value, "Wilson, fewest images of a class")
    assert (found.low, found.high) == pytest.approx(wilson(value * 4, 4))


def test_only_images_that_are_compared_count():
    """Of the four images with wrong answers two lie in a fold of their own."""
    with pytest.raises(VlmlakeError, match="are found in 2 images only"):
        auroc(FEW_WRONG, FEW_WRONG, TRIPLES, 0, np.isin(TRIPLES, (0, 1)))


def test_two_scores_that_both_tell_all_have_no_gain_but_an_interval():
    found = auroc_gain(FEW_WRONG, 2 * FEW_WRONG, FEW_WRONG, TRIPLES, 0)
    assert (found.value, found.interval) == (0, "Wilson, fewest images of a class")
    assert found.high == -found.low == pytest.approx(wilson(0, 4)[1])


@pytest.mark.parametrize(("hits", "value"), [(np.ones(20), 1), (np.zeros(20), 0)])
def test_a_ratio_without_spread_counts_the_images_with_a_denominator(hits, value):
    of, images = np.arange(20) % 2, np.arange(20) // 4
    of[images == 0] = 0
    found = ratio(hits * of, of, images, 0)
    assert (found.value, found.interval) == (value, "Wilson, images counted")
    assert (found.low, found.high) == pytest.approx(wilson(value * 4, 4))
