"""Many tests at once."""

from __future__ import annotations

import numpy as np

from vlmlake.errors import VlmlakeError


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm's step-down correction (Holm 1979), as statsmodels' multipletests(method="holm").

    p_values: [m], float64, of one family. Returns [m]: each multiplied by the number of hypotheses not yet rejected
    before it, never below a smaller one's, at most 1.

    Raises VlmlakeError for what is no probability.
    """
    p_values = np.asarray(p_values, np.float64)
    if not ((p_values >= 0) & (p_values <= 1)).all():
        raise VlmlakeError("a p-value is not between 0 and 1: nothing can be corrected")
    order = np.argsort(p_values, kind="stable")
    stepped = np.maximum.accumulate(p_values[order] * np.arange(len(p_values), 0, -1))
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(stepped, 1)
    return corrected
