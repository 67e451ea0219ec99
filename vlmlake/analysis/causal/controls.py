"""Ablations beside their controls: what as many neurons that nobody chose would cost, and the rank among them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from vlmlake.analysis.causal.cells import Cell, Cells, Ident
from vlmlake.analysis.causal.conditions import CONTROL, Condition, Intervention
from vlmlake.analysis.causal.outcomes import Outcomes
from vlmlake.analysis.population import joined
from vlmlake.analysis.statistics.controls import rank_among, spread_of_controls

RANKED = ("top", "bottom", "given")


def control_rows(
    cell: Cell, outcomes: Outcomes, none: str, controls: Sequence[Condition], ident: Ident, note: str | None
) -> dict[str, Any]:
    """The row `drop` of all control sets together."""
    found = drops(cell, outcomes, none, controls)
    return cell.estimated(CONTROL, "drop", lambda: spread_of_controls(found), note, **ident)


def drops(cell: Cell, outcomes: Outcomes, none: str, conditions: Sequence[Condition]) -> np.ndarray:
    """[m], the drop of each of these conditions, in shares."""
    before, *after = outcomes.right_under([none, *(one.condition for one in conditions)], cell.places).sum(axis=1)
    found: np.ndarray = (before - np.array(after)) / max(1, len(cell))
    return found


def rank_rows(
    cells: Cells, outcomes: Outcomes, intervention: Intervention, one: Condition, ident: Ident
) -> Iterator[dict[str, Any]]:
    """Rows `rank_among_controls`, on the examples that have an outcome under the condition and all its controls."""
    beside = controls_of(intervention, one, outcomes)
    if one.set not in RANKED or not beside:
        return
    compared = (intervention.none, one.condition, *(other.condition for other in beside))
    for cell in cells.of(outcomes.present(compared)):
        if not len(cell):
            why = f"no example has outcomes under it and its {len(beside)} controls"
            yield cell.row(one.set, "rank_among_controls", None, joined(one.told, why), **ident)
            continue
        own, *others = drops(cell, outcomes, intervention.none, [one, *beside])
        rank, p_value = rank_among(own, np.array(others))
        note = joined(one.told, f"of {len(others)} controls")
        numbers = {"value": float(rank), "p_value": p_value}
        yield cell.row(one.set, "rank_among_controls", None, note, **numbers, **ident)


def controls_of(intervention: Intervention, one: Condition, outcomes: Outcomes) -> list[Condition]:
    """The controls of the same number of neurons at the same place that have outcomes; those of the same ranking where
    each ranking has its own.
    """
    found = [
        other
        for other in intervention.conditions
        if other.set == CONTROL and other.beside(one) and outcomes.present([other.condition]).any()
    ]
    return [other for other in found if other.ranking == one.ranking] or found
