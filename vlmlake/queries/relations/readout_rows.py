"""A row for each readout position of some examples: prompt_last, and the answer's tokens."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import polars as pl

from vlmlake.queries.predicates import KeyConditions
from vlmlake.queries.relations.base import LABELS, Types, Unit, with_labels
from vlmlake.store_schema.schema import PROMPT_LAST

POSITION_KEY: Types = {"position": pl.String()}


def readout_rows(unit: Unit, needed: Collection[str], conditions: KeyConditions) -> pl.DataFrame:
    """`number` of the example, `place` on the arrays' position axis, `position`, and the needed of `run`, `example` and
    `layer`. Only what the run keeps and the example's answer has; rows that cannot be asked for are left out.
    """
    labels = unit.view.record.positions
    answered = np.array([-1 if label == PROMPT_LAST else int(label.removeprefix("answer_")) for label in labels])
    there = answered[None, :] < unit.examples["answer_tokens"].to_numpy()[:, None]
    number, place = np.nonzero(there)
    rows = pl.DataFrame({"number": unit.examples["number"].to_numpy()[number], "place": place})
    rows = rows.with_columns(pl.Series(labels).gather(place).alias("position"))
    return conditions.keep(with_labels(unit, rows, needed), {*LABELS, "position"})
