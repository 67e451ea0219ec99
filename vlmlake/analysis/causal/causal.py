"""Causal: what the stored outcomes of interventions say, against the model as it is and against controls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import xarray as xr

from vlmlake.analysis.causal.cells import Cells, Ident
from vlmlake.analysis.causal.conditions import CONTROL, MEMBERS, RANDOM, Condition, Intervention, interventions_of
from vlmlake.analysis.causal.controls import control_rows, drops, rank_rows
from vlmlake.analysis.causal.drawing import draw
from vlmlake.analysis.causal.drops import drop_rows
from vlmlake.analysis.causal.masks import contrast_rows, random_rows
from vlmlake.analysis.causal.outcomes import Outcomes, outcomes_of
from vlmlake.analysis.causal.patches import patch_rows
from vlmlake.analysis.contract import Analysis, Source, dataset_of
from vlmlake.analysis.drawing import new_axes
from vlmlake.analysis.population import joined, population
from vlmlake.analysis.result import Result, result_table
from vlmlake.answers.rules import DEFAULT_RULE
from vlmlake.errors import VlmlakeError
from vlmlake.store_schema.run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CONTROLS = {
    "intervention": pl.String,
    "layer": pl.String,
    "site": pl.String,
    "mode": pl.String,
    "positions": pl.String,
    "k": pl.Int64,
    "member": pl.Int64,
    "drop": pl.Float64,
}
NOT_YET = "no outcomes yet: the command that made the intervention goes on where it was when it is run again"


@dataclass(frozen=True)
class CausalParameters:
    """gold_answers: up to so many distinct gold answers have rows of their own."""

    gold_answers: int = 10


DEFAULTS = CausalParameters()


@dataclass(frozen=True)
class CausalResult(Result):
    """`controls` has a row per intervention and control set: its drop over all splits, as a share."""

    controls: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=CONTROLS))

    def plot(self, ax: Axes | None = None, intervention: str | None = None) -> Axes:
        """Of one intervention, the first unless another is named, the drop over all splits with its interval.

        Of ablations over the number of neurons, with the band and the points of the controls; of masks a point a set
        and their contrasts; of heads, bypasses and patches over the blocks.

        Raises VlmlakeError for an intervention that is not there.
        """
        axes = new_axes(ax)
        there = self.table["intervention"].unique(maintain_order=True).to_list()
        chosen = there[0] if intervention is None else intervention
        if chosen not in there:
            raise VlmlakeError(f"no intervention {chosen} in this result: expected one of {', '.join(there)}")
        draw(axes, self.table.filter(intervention=chosen), self.controls.filter(intervention=chosen))
        return axes


def causal(
    source: Source,
    *,
    rule: str = DEFAULT_RULE,
    seed: int = 0,
    parameters: CausalParameters = DEFAULTS,
    interventions: pl.DataFrame | None = None,
    outcomes: pl.DataFrame | None = None,
) -> CausalResult:
    """What every condition of every intervention does to correctness and to the margin, under one label rule.

    interventions, outcomes: rows of tables.INTERVENTIONS and tables.OUTCOMES; a Run's own where they are not given.
    Answers that the rule cannot read count as not right, and the notes say how many. An example takes part where it has
    an outcome under `none` and the condition. `metric` is the condition's set, `position` its positions, `at` its
    number of neurons k or its share of patches. Rows per split, and per gold answer where these are few:

    `drop`: share right under `none` less the share under the condition (statistics.paired.paired_drop), with the exact
    McNemar p-value; `accuracy_before`, `accuracy_after`; `margin_drop`: mean fall of the margin, in logits.
    Ablations: the `drop` of `control` is the mean over the control sets between the percentiles that hold 95 % of them;
    `rank_among_controls` of `top`, `bottom` and `given` is 1 plus the number of controls of the same k, site and layer
    that cost as much, its p-value that over their number plus 1 (statistics.controls.rank_among).
    Masks: of `random` each example's mean over the sets comes before the mean over examples; `contrast` of
    `high_minus_random` and `low_minus_random` is the share right under random sets less that under the chosen patches
    (statistics.paired.paired_contrast).
    Patches: `follows_donor`, the share of answers that became the donor's, of pairs whose answers differ.

    A condition without outcomes has a row that says so. Two conditions whose rows would look alike are told apart by
    their notes, as in `ranking auroc`.

    Raises NotKeptError if the run has no interventions, VlmlakeError if no example is labelled, tables are neither
    given nor a run's, an intervention has not exactly one condition `none`, or a condition is unknown or lacks what it
    needs.
    """
    data: xr.Dataset = dataset_of(source)
    run = data.attrs["run"]
    rows_of = _tables(source, run, interventions=interventions, outcomes=outcomes)
    found = interventions_of(rows_of["interventions"], run)
    population(data, rule=rule)
    known = dict.fromkeys(name for one in found for name in (one.none, *(c.condition for c in one.conditions)))
    told = outcomes_of(rows_of["outcomes"], data, known, rule)
    rows: list[dict[str, Any]] = []
    controls: list[dict[str, Any]] = []
    for one in found:
        # Another intervention may have the same condition, and outcomes of examples that this one must not look at.
        ids = data["example"].values
        own = told if one.examples is None else told.of(np.isin(ids, sorted(one.examples)))
        of_one = _OfIntervention(
            data, own, one, Cells(data, rule, told.right[told.rows[one.none]], parameters.gold_answers)
        )
        rows += of_one.rows(seed)
        controls += of_one.controls()
    if all(row["value"] is None for row in rows):
        notes = "; ".join(dict.fromkeys(row["note"] for row in rows)) or "they have no conditions but `none`"
        raise VlmlakeError(f"run {run}: interventions tell nothing of these examples: {notes}")
    return CausalResult(result_table(rows), controls=pl.DataFrame(controls, schema=CONTROLS))


def _tables(source: Source, run: str, **given: pl.DataFrame | None) -> dict[str, pl.DataFrame]:
    """The tables by name, the rows of this run."""
    found = {}
    for name, rows in given.items():
        if rows is None and not isinstance(source, Run):
            raise VlmlakeError(
                f"a Dataset comes without the table {name}: give {name}=, as lake.table({name!r}), or the run itself"
            )
        found[name] = source.findings(name) if rows is None and isinstance(source, Run) else rows
    return {name: rows.filter(run=run) for name, rows in found.items() if rows is not None}


@dataclass(frozen=True)
class _OfIntervention:
    """One intervention and what there is of it."""

    data: xr.Dataset
    outcomes: Outcomes
    one: Intervention
    cells: Cells

    def rows(self, seed: int) -> Iterator[dict[str, Any]]:
        for condition in self.one.one_by_one():
            ident = self.ident(condition)
            if condition.kind == "patch" and self.there([condition]).any():
                yield from patch_rows(self.cells, self.data, self.outcomes, self.one, condition, ident)
            else:
                yield from self._drops(condition, ident)
            yield from rank_rows(self.cells, self.outcomes, self.one, condition, ident)
        for which in MEMBERS:
            for group in self.one.members(which):
                yield from self._of_members(group, seed)

    def _drops(self, condition: Condition, ident: Ident) -> Iterator[dict[str, Any]]:
        there = self.there([condition])
        if not there.any():
            (empty,) = self.cells.of(there)
            yield empty.row(condition.set, "drop", None, joined(condition.told, NOT_YET), **ident)
            return
        note = joined(condition.told, self._lacking(there))
        for cell in self.cells.of(there):
            yield from drop_rows(cell, self.outcomes, self.one.none, condition.condition, condition.set, ident, note)

    def _of_members(self, group: tuple[Condition, ...], seed: int) -> Iterator[dict[str, Any]]:
        """Rows of conditions that differ by chance: of those that have outcomes."""
        first, ident = group[0], self.ident(group[0])
        done = [one for one in group if self.there([one]).any()]
        there = self.there(done) if done else np.zeros(self.data.sizes["example"], bool)
        if not there.any():
            (empty,) = self.cells.of(there)
            yield empty.row(first.set, "drop", None, joined(first.told, NOT_YET), **ident)
            return
        missing = (
            f"{len(group) - len(done)} of {len(group)} sets without outcomes yet" if len(done) < len(group) else None
        )
        note = joined(first.told, missing, self._lacking(there))
        for cell in self.cells.of(there):
            if first.set == CONTROL:
                yield control_rows(cell, self.outcomes, self.one.none, done, ident, note)
            else:
                yield from random_rows(cell, self.outcomes, self.one.none, done, ident, note)
        for condition in self.one.one_by_one() if first.set == RANDOM else ():
            if condition.beside(first):
                yield from contrast_rows(self.cells, self.outcomes, self.one, condition, done, ident, seed)

    def controls(self) -> Iterator[dict[str, Any]]:
        """Rows of CONTROLS."""
        for group in self.one.members(CONTROL):
            done = [one for one in group if self.there([one]).any()]
            cell = self.cells.of(self.there(done) if done else np.zeros(self.data.sizes["example"], bool))[0]
            if not len(cell):
                continue
            for one, drop in zip(done, drops(cell, self.outcomes, self.one.none, done), strict=True):
                told = {name: getattr(one, name) for name in CONTROLS if name not in ("intervention", "drop")}
                yield {"intervention": self.one.name, **told, "drop": drop}

    def there(self, conditions: list[Condition]) -> np.ndarray:
        """[n], bool: which examples have an outcome under `none` and all of these."""
        return self.outcomes.present([self.one.none, *(one.condition for one in conditions)])

    def ident(self, condition: Condition) -> Ident:
        return {
            "intervention": self.one.name,
            "layer": condition.layer,
            "position": condition.positions,
            "head": condition.head,
            "at": condition.at,
        }

    def _lacking(self, there: np.ndarray) -> str | None:
        """How many examples have an outcome under another condition of the intervention, not here."""
        whole = [one for one in self.one.conditions if one.kind != "patch"]
        some = np.logical_or.reduce([self.there([one]) for one in whole], initial=False)
        lacking = int((some & ~there).sum())
        return f"{lacking} examples without an outcome yet" if lacking else None


CAUSAL = Analysis(
    "causal",
    "what interventions change: drops against controls, masks against chance, answers that follow a donor",
    causal,
    tables=("interventions", "outcomes"),
    parameters=DEFAULTS,
)
