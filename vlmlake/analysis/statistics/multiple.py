"""Many tests at once."""

from __future__ import annotations

import numpy as np


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm's step-down correction (Holm 1979), as statsmodels' multipletests(method="holm").

    p_values: [m], float64, of one family. Returns [m]: each multiplied by the number of hypotheses not yet rejected
    before it, never below a smaller one's, at most 1.
    """
    order = np.argsort(p_values, kind="stable")
    stepped = np.maximum.accumulate(p_values[order] * np.arange(len(p_values), 0, -1))
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(stepped, 1)
    return corrected
