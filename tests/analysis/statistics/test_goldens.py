"""Values that were published, or that the authors' public rows give."""

import numpy as np
import pytest

from vlmlake.analysis.statistics.correlation import correlation_p_value, fisher_interval
from vlmlake.analysis.statistics.paired import mcnemar, paired_drop


@pytest.mark.parametrize(
    ("correlation", "low", "high"), [(0.001, -0.034, 0.036), (-0.012, -0.047, 0.023), (0.429, 0.400, 0.457)]
)
def test_fisher_interval_gives_the_studys_values_over_3090_examples(correlation, low, high):
    """The second upper end is printed 0.024 in the paper and is 0.023."""
    assert fisher_interval(correlation, 3090) == (pytest.approx(low, abs=5e-4), pytest.approx(high, abs=5e-4))


def test_entropy_and_log_prob_of_the_public_rows_correlate_as_published():
    assert correlation_p_value(-0.2520, 200) == pytest.approx(0.0003, abs=5e-5)
    assert round(0.2520**2, 4) == 0.0635


def _outcomes(n, both, only_first, only_second):
    first, second = np.zeros(n), np.zeros(n)
    first[: both + only_first] = 1
    second[:both] = 1
    second[both + only_first : both + only_first + only_second] = 1
    return first, second


def test_masking_the_highest_patches_costs_what_the_public_rows_say():
    """n = 1000, 754 right on the full image, 641 on the masked one, 149 only before and 36 only after."""
    full, high = _outcomes(1000, 605, 149, 36)
    assert (full.sum(), high.sum()) == (754, 641)
    found = paired_drop(full, high, np.arange(1000))
    assert (found.value, found.low, found.high) == tuple(pytest.approx(x, abs=5e-4) for x in (0.113, 0.087, 0.139))
    assert found.p_value == mcnemar(149, 36) == pytest.approx(1.6e-17, rel=0.03)


@pytest.mark.parametrize("discordant", [149, 151, 153])
def test_most_of_that_drop_is_what_a_random_mask_costs_too(discordant):
    """680 right under a random mask, 641 under HIGH. The published interval is that of 149 to 153 pairs that differ."""
    only_random = (discordant + 39) // 2
    random, high = _outcomes(1000, 680 - only_random, only_random, discordant - only_random)
    assert (random.sum(), high.sum()) == (680, 641)
    found = paired_drop(random, high, np.arange(1000))
    assert (found.value, found.low, found.high) == tuple(pytest.approx(x, abs=5e-4) for x in (0.039, 0.015, 0.063))
    assert found.p_value < 0.01
