"""What one condition does to the answers: the drop, accuracy before and after, and the fall of the margin."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from vlmlake.analysis.causal.cells import Cell, Ident
from vlmlake.analysis.causal.outcomes import Outcomes
from vlmlake.analysis.population import joined
from vlmlake.analysis.statistics.means import mean
from vlmlake.analysis.statistics.paired import paired_drop
from vlmlake.analysis.statistics.proportions import proportion

WITHOUT_MARGIN = "without a margin"


def drop_rows(
    cell: Cell, outcomes: Outcomes, none: str, condition: str, metric: str, ident: Ident, note: str | None
) -> Iterator[dict[str, Any]]:
    """Rows `drop`, `accuracy_before`, `accuracy_after` and `margin_drop` of one condition against `none`."""
    before, after = outcomes.right_under([none, condition], cell.places)
    unparsed = unparsed_note(*outcomes.unparsed_under([none, condition], cell.places))
    told = joined(note, f"{(before & ~after).sum()} right only before, {(after & ~before).sum()} only after", unparsed)
    numbers = before.astype(np.float64), after.astype(np.float64)
    yield cell.estimated(metric, "drop", lambda: paired_drop(*numbers, cell.images), told, **ident)
    noted = joined(note, unparsed)
    yield accuracy_row(cell, metric, "accuracy_before", numbers[0], noted, ident)
    yield accuracy_row(cell, metric, "accuracy_after", numbers[1], noted, ident)
    first, second = outcomes.margin_under([none, condition], cell.places)
    yield margin_row(cell, metric, first - second, note, ident)


def accuracy_row(
    cell: Cell, metric: str, statistic: str, right: np.ndarray, note: str | None, ident: Ident
) -> dict[str, Any]:
    """right: [n] of 0 and 1."""
    return cell.estimated(metric, statistic, lambda: proportion(right, cell.images), note, **ident)


def margin_row(cell: Cell, metric: str, fall: np.ndarray, note: str | None, ident: Ident) -> dict[str, Any]:
    """fall: [n], the margin before less the one after, NaN where one of them is not there."""
    told = np.isfinite(fall)
    if not told.any():
        return cell.row(metric, "margin_drop", None, joined(note, "no example has a margin"), **ident)
    some = cell.where(told, WITHOUT_MARGIN)
    return some.estimated(metric, "margin_drop", lambda: mean(fall[told], some.images, "the margin"), note, **ident)


def unparsed_note(before: np.ndarray, after: np.ndarray) -> str | None:
    """How many answers the rule could not read, where there are any. [..., n], bool."""
    if not (before.any() or after.any()):
        return None
    return f"{before.sum()} unparsed before and {after.sum()} after, which count as not right"
