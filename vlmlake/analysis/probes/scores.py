"""Out-of-fold scores of the pooled population, on the Dataset's examples, and what they are worth in every split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from vlmlake.analysis.population import ALL_SPLITS, Population, joined, population, splits_of
from vlmlake.analysis.statistics.estimate import Estimate
from vlmlake.analysis.statistics.roc import auroc_gain, aurocs
from vlmlake.errors import VlmlakeError


@dataclass(frozen=True)
class Score:
    """One number per example of a population, higher for surer, and where its row of the result table goes.

    values: [n]. against: what its gain is over, another score on the same examples; it is then told as the difference.
    trained: whether models were fitted to give it.
    """

    metric: str
    values: np.ndarray
    position: str | None = None
    layer: str | None = None
    note: str | None = None
    against: np.ndarray | None = None
    trained: bool = True


def spread(data: xr.Dataset, chosen: Population, values: np.ndarray) -> np.ndarray:
    """Numbers of a population's examples, on the last axis, as those of all examples of the Dataset.

    An example that shares its row (image and question) with one of the population has that one's number, others NaN.
    values: [..., n]. Returns [..., examples], float64.
    """
    rows, of_chosen = data["row"].values, data["row"].values[chosen.places]
    order = np.argsort(of_chosen)
    place = np.minimum(np.searchsorted(of_chosen, rows, sorter=order), len(order) - 1)
    nearest = order[place]
    found: np.ndarray = np.where(of_chosen[nearest] == rows, np.asarray(values, np.float64)[..., nearest], np.nan)
    return found


def score_rows(
    data: xr.Dataset, chosen: Population, scores: Sequence[Score], strata: np.ndarray, seed: int
) -> list[dict[str, Any]]:
    """AUROC of every score, pooled over the splits and in each of several; pairs of one fold are compared.

    strata: [n], the fold that tested each example of `chosen`, the pooled population. A split in which the statistic
    has no value gets a row that says why.
    """
    everywhere = [spread(data, chosen, score.values) for score in scores]
    against = [None if score.against is None else spread(data, chosen, score.against) for score in scores]
    folds = spread(data, chosen, strata)
    rows = []
    for split, part in _parts(data, chosen, folds):
        at = part.places
        given = [values[at] for values in everywhere]
        others = [None if values is None else values[at] for values in against]
        estimates = _estimates(given, others, part, folds[at], seed)
        for score, estimate in zip(scores, estimates, strict=True):
            statistic = "auroc" if score.against is None else "auroc_difference"
            where = {"position": score.position, "layer": score.layer}
            if isinstance(estimate, VlmlakeError):
                rows.append(part.refusal(score.metric, statistic, estimate, **where))
            else:
                pooled = "trained on all splits" if score.trained and split != ALL_SPLITS else None
                note = joined(score.note, pooled)
                rows.append(part.row(score.metric, statistic, estimate, note, **where))
    return rows


def _estimates(
    given: list[np.ndarray], against: list[np.ndarray | None], part: Population, folds: np.ndarray, seed: int
) -> Sequence[Estimate | VlmlakeError]:
    """AUROC or gain of each score, or why there is none."""
    plain = np.array([values for values, other in zip(given, against, strict=True) if other is None])
    try:
        areas = iter(aurocs(plain, part.correct, part.images, seed, folds))
        return [
            next(areas) if other is None else _gain(values, other, part, folds, seed)
            for values, other in zip(given, against, strict=True)
        ]
    except VlmlakeError as error:
        return [error] * len(given)


def _gain(
    values: np.ndarray, other: np.ndarray, part: Population, folds: np.ndarray, seed: int
) -> Estimate | VlmlakeError:
    try:
        return auroc_gain(values, other, part.correct, part.images, seed, folds)
    except VlmlakeError as error:
        return error


def _parts(data: xr.Dataset, chosen: Population, folds: np.ndarray) -> list[tuple[str, Population]]:
    """The pooled population, and those of the splits where there are several; a split without labels is left out."""
    parts, splits = [(ALL_SPLITS, chosen)], splits_of(data)[1:]
    for split in splits if len(splits) > 1 else []:
        try:
            part = population(data, split, chosen.rule)
        except VlmlakeError:
            continue
        scored = np.isfinite(folds[part.places])
        if scored.any():
            parts.append((split, part.where(scored, "without a score")))
    return parts
