"""Activations of one example put into another of the same image: does the answer go along?"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from vlmlake.analysis.causal.cells import Cells, Ident
from vlmlake.analysis.causal.conditions import Condition, Intervention
from vlmlake.analysis.causal.drops import drop_rows
from vlmlake.analysis.causal.outcomes import Outcomes
from vlmlake.analysis.population import joined
from vlmlake.analysis.statistics.proportions import proportion

UNREAD = -1


def patch_rows(
    cells: Cells, data: xr.Dataset, outcomes: Outcomes, intervention: Intervention, one: Condition, ident: Ident
) -> Iterator[dict[str, Any]]:
    """Rows `follows_donor`, the share of answers that became the donor's, and those of drop_rows.

    Only pairs whose answers differ count: of others nothing could be told. The donor's answer is that under `none`,
    where that was not asked the run's own.
    """
    donors = _donors(data, outcomes, intervention, one)
    there = outcomes.present([intervention.none, one.condition])
    before, after = (outcomes.said[outcomes.rows[name]] for name in (intervention.none, one.condition))
    read = donors != UNREAD
    differing = read & (before != donors)
    note = joined(
        one.told,
        _counted(there & ~read, "without a donor whose answer can be read"),
        _counted(there & read & ~differing, "whose donor has the same answer"),
    )
    for cell in cells.of(there & differing):
        became = (after == donors)[cell.places]
        yield cell.estimated(one.set, "follows_donor", partial(proportion, became, cell.images), note, **ident)
        yield from drop_rows(cell, outcomes, intervention.none, one.condition, one.set, ident, note)


def _donors(data: xr.Dataset, outcomes: Outcomes, intervention: Intervention, one: Condition) -> np.ndarray:
    """[n], int64: what the rule reads in the answer of each example's donor; UNREAD where there is none."""
    ids = data["example"].values.tolist()
    said = outcomes.said_under(intervention.none)
    stored = dict(zip(ids, data["answer"].values.tolist(), strict=True))
    donor = dict(one.pairs)
    found = np.full(len(ids), UNREAD, np.int64)
    for place, example in enumerate(ids):
        giver = donor.get(example)
        if giver in said:
            found[place] = said[giver]
        elif giver in stored:
            found[place] = outcomes.number_of(stored[giver])
    return found


def _counted(those: np.ndarray, what: str) -> str | None:
    return f"{those.sum()} {what} left out" if those.any() else None
