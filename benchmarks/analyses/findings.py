"""The numbers of an analysis's result, and how far those of two are apart."""

from __future__ import annotations

import numpy as np

from analyses.process import Numbers
from vlmlake.analysis.result import Result

COLUMNS = ("value", "low", "high", "p_value")


def numbers_of(result: Result) -> Numbers:
    """All of the table's, row by row, and those of every example."""
    table = {f"table {name}": result.table[name].to_numpy().astype(np.float64) for name in COLUMNS}
    examples = {f"examples {name}": values.values for name, values in result.examples.data_vars.items()}
    return table | examples


def largest_difference(one: Numbers, other: Numbers) -> float:
    """The largest |difference| over the larger of 1 and the number itself.

    Raises AssertionError if one has numbers where the other has none.
    """
    assert one.keys() == other.keys(), one.keys() ^ other.keys()
    found = 0.0
    for name, expected in one.items():
        given = other[name]
        assert np.array_equal(np.isnan(expected), np.isnan(given)), name
        difference = np.abs(given - expected) / np.maximum(1, np.abs(expected))
        found = max(found, float(np.nanmax(difference, initial=0.0)))
    return found
