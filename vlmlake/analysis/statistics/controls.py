"""One value among those of controls, which differ from it by what is tested alone."""

from __future__ import annotations

import numpy as np

from vlmlake.analysis.statistics.estimate import CONFIDENCE, ROUNDING, Estimate, require_numbers
from vlmlake.errors import VlmlakeError

LEAST = 2


def spread_of_controls(values: np.ndarray) -> Estimate:
    """Mean of the controls' values, [m], between the percentiles that hold 95 % of them: no interval of the mean.

    Raises VlmlakeError for fewer than LEAST controls, or a value that is no number.
    """
    require_numbers(values, "the value of a control")
    if len(values) < LEAST:
        raise VlmlakeError(f"{len(values)} control, expected at least {LEAST}: one has no spread")
    low, high = np.quantile(values, (0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2))
    return Estimate(float(np.mean(values)), float(low), float(high), f"2.5 to 97.5 % of {len(values)} controls")


def rank_among(value: float, controls: np.ndarray) -> tuple[int, float]:
    """The rank of a value among those of N controls, [N], from 1, the largest; and its one-sided p-value, the rank over
    N + 1 (Phipson and Smyth 2010: the value itself counts as one of the draws, so that none is 0).

    Controls that are as large, but for rounding, count as larger.

    Raises VlmlakeError for no controls, or a value that is no number.
    """
    require_numbers(controls, "the value of a control")
    require_numbers(np.array([value]), "the value that is ranked")
    rank = 1 + int((np.asarray(controls) >= value - ROUNDING * max(1.0, abs(value))).sum())
    return rank, rank / (len(controls) + 1)
