"""What an analysis says of itself: the arrays and tables it reads, its parameters, whose numbers it builds on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl
import xarray as xr

from vlmlake.analysis.result import Result
from vlmlake.errors import NotKeptError, VlmlakeError
from vlmlake.store_schema.run import Run

Source = xr.Dataset | Run
"""What analyses are asked of: a run, or its Dataset, whole or any selection of its examples."""


@dataclass(frozen=True)
class NoParameters:
    """Of an analysis that has none."""


NO_PARAMETERS = NoParameters()


@dataclass(frozen=True)
class Analysis:
    """One analysis by name.

    compute: called as compute(data, rule=, seed=, parameters=), and with metrics= where `after` names analyses: their
    per-example numbers, a Dataset as Result.examples; and with a keyword for each name in `tables`: the rows of the run
    in that one of store_schema.tables.FINDINGS, in Polars, which others than analyses write; with new rows there it is
    computed again. reads: the arrays it needs, as alternatives in order of preference
    ("attention|readout_attention"). takes: arrays that it uses where they are there. labelled: whether its per-example
    numbers hang on the label rule, the seed or the other examples. headline: metrics that `vlmlake analyze` prints, all
    of them where none are named. parameters: a frozen dataclass, its defaults.
    """

    name: str
    title: str
    compute: Callable[..., Result]
    reads: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    labelled: bool = False
    headline: tuple[str, ...] = ()
    parameters: Any = NO_PARAMETERS

    def __call__(
        self,
        data: xr.Dataset,
        rule: str,
        seed: int,
        parameters: Any,
        metrics: xr.Dataset | None,
        rows: Mapping[str, pl.DataFrame],
    ) -> Result:
        """metrics: where `after` names analyses. rows: of each of `tables`.

        Raises NotKeptError if the run keeps none of the arrays that it needs, VlmlakeError if it refuses the run.
        """
        for alternatives in self.reads:
            kept_array(data, *alternatives.split("|"))
        more = {"metrics": metrics} if self.after else {}
        return self.compute(data, rule=rule, seed=seed, parameters=parameters, **more, **rows)


def dataset_of(source: Source) -> xr.Dataset:
    """The Dataset of a run, or the one given. Raises VlmlakeError if it holds no example."""
    data = source.dataset() if isinstance(source, Run) else source
    if not data.sizes["example"]:
        raise VlmlakeError(f"no example of run {data.attrs['run']} is left to analyze: expected at least one")
    return data


def kept_array(data: xr.Dataset, *names: str) -> str:
    """The first of these arrays that the run keeps. Raises NotKeptError if its plan kept none of them."""
    for name in names:
        if name in data:
            return name
    raise NotKeptError(
        f"run {data.attrs['run']} keeps no {' and no '.join(names)}: run `vlmlake extract` with a plan that has it"
    )
