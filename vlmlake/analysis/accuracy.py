"""How often the greedy answer is right, by split: the ground every other table stands on."""

from __future__ import annotations

from typing import Any

import xarray as xr

from vlmlake.analysis.labels import DEFAULT_RULE
from vlmlake.analysis.samples import sample, splits_of
from vlmlake.analysis.statistics import wilson


def answer_accuracy(data: xr.Dataset, rule: str = DEFAULT_RULE, seed: int = 0) -> list[dict[str, Any]]:
    """Share of right answers with Wilson's interval, for all splits pooled and each alone; rows of tables.RESULTS."""
    rows = []
    for split in splits_of(data):
        chosen = sample(data, split, rule)
        rows.append(chosen.row("accuracy", "proportion", wilson(int(chosen.correct.sum()), len(chosen))))
    return rows
