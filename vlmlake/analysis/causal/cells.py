"""The cells that every statistic is given for: each split, and each gold answer in it where these are few."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr

from vlmlake.analysis.population import Population, splits_of, with_unparsed
from vlmlake.analysis.statistics.estimate import Estimate


@dataclass(frozen=True)
class Cell:
    """Examples of one split that have outcomes. gold: the gold answer that they have in common, None for all.

    asked: its `correct` says what was right before, an unparsed answer is not. images: [n], int, a number for each
    image: quicker to group by than its hash.
    """

    asked: Population
    gold: str | None

    def __len__(self) -> int:
        return len(self.asked)

    @property
    def places(self) -> np.ndarray:
        return self.asked.places

    @cached_property
    def images(self) -> np.ndarray:
        numbers: np.ndarray = np.unique(self.asked.images, return_inverse=True)[1]
        return numbers

    def where(self, keep: np.ndarray, why: str) -> Cell:
        """As Population.where."""
        return self if keep.all() else Cell(self.asked.where(keep, why), self.gold)

    def row(
        self, metric: str, statistic: str, estimate: Estimate | None, note: str | None, **more: Any
    ) -> dict[str, Any]:
        """As Population.row."""
        return self.asked.row(metric, statistic, estimate, note, gold=self.gold, **more)

    def estimated(
        self, metric: str, statistic: str, estimator: Callable[[], Estimate], note: str | None, **more: Any
    ) -> dict[str, Any]:
        """As Population.estimated."""
        return self.asked.estimated(metric, statistic, estimator, note, gold=self.gold, **more)


class Cells:
    """The cells of any choice of a run's examples, found once for each choice.

    data: the run's Dataset. before: [n], bool, what was right before. gold_answers: more distinct ones than so many
    have no cells of their own.
    """

    def __init__(self, data: xr.Dataset, rule: str, before: np.ndarray, gold_answers: int) -> None:
        self._data = data.drop_dims([dimension for dimension in data.dims if dimension != "example"])
        self._rule, self._before, self._gold_answers = rule, before, gold_answers
        self._found: dict[bytes, list[Cell]] = {}

    def of(self, keep: np.ndarray) -> list[Cell]:
        """keep: [n], bool. Each (image, question) pair counts once; those of all splits first, then split by split, in
        each all gold answers first. Without an example a single, empty cell.
        """
        key = np.packbits(keep).tobytes()
        if key not in self._found:
            self._found[key] = list(self._cells(np.flatnonzero(keep)))
        return self._found[key]

    def _cells(self, chosen: np.ndarray) -> Iterator[Cell]:
        part = self._data.isel(example=chosen)
        pooled, *splits = (self._asked(part, split, chosen) for split in splits_of(part))
        golds = sorted(set(pooled.data["gold"].values))
        yield Cell(pooled, None)
        for asked in (pooled, *splits):
            if not len(asked):
                continue
            if asked is not pooled:
                yield Cell(asked, None)
            for gold in golds if len(golds) <= self._gold_answers else ():
                of_it = asked.data["gold"].values == gold
                if of_it.any():
                    yield Cell(_only(asked, of_it), gold)

    def _asked(self, part: xr.Dataset, split: str, chosen: np.ndarray) -> Population:
        asked = with_unparsed(part, split, self._rule)
        places = chosen[asked.places]
        return replace(asked, places=places, correct=self._before[places].astype(np.float64))


def _only(asked: Population, keep: np.ndarray) -> Population:
    """The examples that are asked for: that others are not is no news for the note."""
    return replace(asked.where(keep, ""), note=asked.note)


Ident = Mapping[str, Any]
"""Columns of a row that tell of which intervention and condition it is."""
