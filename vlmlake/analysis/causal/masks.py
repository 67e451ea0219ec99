"""Masked patches against as many that chance chose: most of a drop may be what any mask costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from vlmlake.analysis.causal.cells import Cell, Cells, Ident
from vlmlake.analysis.causal.conditions import RANDOM, Condition, Intervention
from vlmlake.analysis.causal.drops import accuracy_row, margin_row, unparsed_note
from vlmlake.analysis.causal.outcomes import Outcomes
from vlmlake.analysis.population import joined
from vlmlake.analysis.statistics.means import mean
from vlmlake.analysis.statistics.paired import paired_contrast, paired_drop_over_several


def random_rows(
    cell: Cell, outcomes: Outcomes, none: str, members: Sequence[Condition], ident: Ident, note: str | None
) -> Iterator[dict[str, Any]]:
    """Rows as of drop_rows, of random sets together: of each example their mean, before any mean over examples."""
    asked = [none, *(one.condition for one in members)]
    right = outcomes.right_under(asked, cell.places).astype(np.float64)
    before, after = right[0], right[1:].mean(axis=0)
    unread = outcomes.unparsed_under(asked, cell.places)
    unparsed = unparsed_note(unread[0], unread[1:])
    told = joined(note, f"each example's mean over {counted(members)}", unparsed)
    yield cell.estimated(
        RANDOM, "drop", lambda: paired_drop_over_several(before, right[1:], cell.images), told, **ident
    )
    yield accuracy_row(cell, RANDOM, "accuracy_before", before, joined(note, unparsed), ident)
    yield cell.estimated(RANDOM, "accuracy_after", lambda: mean(after, cell.images, "accuracy"), told, **ident)
    margin = outcomes.margin_under(asked, cell.places)
    yield margin_row(cell, RANDOM, margin[0] - margin[1:].mean(axis=0), note, ident)


def contrast_rows(
    cells: Cells,
    outcomes: Outcomes,
    intervention: Intervention,
    one: Condition,
    members: Sequence[Condition],
    ident: Ident,
    seed: int,
) -> Iterator[dict[str, Any]]:
    """Rows `contrast` of `high_minus_random` or `low_minus_random`: how much more the chosen patches cost."""
    compared = [one.condition, *(member.condition for member in members)]
    for cell in cells.of(outcomes.present([intervention.none, *compared])):
        right = outcomes.right_under(compared, cell.places).astype(np.float64)
        unread = outcomes.unparsed_under([intervention.none, *compared], cell.places)
        note = joined(
            one.told,
            f"against each example's mean over {counted(members)}; p: exact McNemar against set "
            f"{members[0].member} alone",
            unparsed_note(unread[0], unread[1:]),
        )
        yield cell.estimated(
            f"{one.set}_minus_{RANDOM}",
            "contrast",
            partial(paired_contrast, right[1:], right[0], cell.images, seed),
            note,
            **ident,
        )


def counted(members: Sequence[Condition]) -> str:
    """As in `20 random sets`."""
    return f"{len(members)} random set{'' if len(members) == 1 else 's'}"
