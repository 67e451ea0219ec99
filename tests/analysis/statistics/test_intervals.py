"""What intervals rest on: images, not examples; the seed, and nothing else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmlake.analysis.statistics.calibration import brier
from vlmlake.analysis.statistics.correlation import point_biserial
from vlmlake.analysis.statistics.paired import paired_drop
from vlmlake.analysis.statistics.proportions import proportion, wilson
from vlmlake.analysis.statistics.risk import risk_curve
from vlmlake.analysis.statistics.roc import auroc, weighted_auroc

ESTIMATORS = {
    "auroc": lambda scores, correct, images: auroc(scores, correct, images, seed=0),
    "brier": lambda scores, correct, images: brier(1 / (1 + np.exp(-scores)), correct, images, seed=0),
    "aurc": lambda scores, correct, images: risk_curve(scores, correct, images, seed=0).aurc,
    "point_biserial": lambda scores, correct, images: point_biserial(scores, correct, images, "x"),
    "proportion": lambda scores, correct, images: proportion(correct, images),
    "paired_drop": lambda scores, correct, images: paired_drop(correct, (scores > 0.5).astype(float), images),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_copies_of_an_images_examples_add_nothing(name):
    """The interval stays as wide as that of the images alone, and is far narrower if copies pass for examples."""
    rng = np.random.default_rng(1)
    correct = (rng.random(80) < 0.5).astype(float)
    scores, images = rng.normal(size=80) + correct, np.arange(80)
    many = [np.repeat(column, 20) for column in (scores, correct, images)]
    alone, copied = ESTIMATORS[name](scores, correct, images), ESTIMATORS[name](*many)
    pretended = ESTIMATORS[name](many[0], many[1], np.arange(1600))
    assert copied.value == pytest.approx(alone.value, abs=0.005)
    assert (copied.high - copied.low) / (alone.high - alone.low) == pytest.approx(1, abs=0.1)
    assert copied.high - copied.low > 3 * (pretended.high - pretended.low)


@pytest.mark.parametrize("name", ["auroc", "aurc"])
def test_the_same_seed_gives_the_same_interval(name):
    rng = np.random.default_rng(2)
    correct, scores = (rng.random(50) < 0.5).astype(float), rng.normal(size=50)
    images = np.arange(50) // 2

    def found(seed):
        return auroc(scores, correct, images, seed) if name == "auroc" else risk_curve(scores, correct, images, seed)

    assert found(3) == found(3)
    assert found(3) != found(4)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_only_pairs_of_one_stratum_are_compared(seed, ties):
    rng = np.random.default_rng(seed)
    correct, strata = (rng.random(40) < 0.6).astype(float), rng.integers(0, 3, 40)
    scores = rng.normal(size=40).round(0 if ties else 6) + 10.0 * strata
    wins = (scores[:, None] > scores) + (scores[:, None] == scores) / 2
    pairs = (correct[:, None] > correct) & (strata[:, None] == strata)
    found = weighted_auroc(scores, correct, np.ones((1, 40)), strata)
    assert found[0] == pytest.approx(wins[pairs].mean())


def test_wilson_gives_the_textbook_interval():
    assert wilson(8, 10) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert wilson(0, 10)[0] == 0.0
