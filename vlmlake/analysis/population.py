"""The labelled examples that a statistic is computed on, and the passport that every row of a result table carries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr

from vlmlake.analysis.statistics.estimate import Estimate
from vlmlake.answers.rules import DEFAULT_RULE, judged, right_or_wrong, rule_named
from vlmlake.errors import VlmlakeError

ALL_SPLITS = "all"


@dataclass(frozen=True)
class Population:
    """Labelled examples of one run: every (image, question) pair once, unparsed answers left out.

    data: the coordinates of the run's Dataset, these examples only. places: [n], where they are on the Dataset's axis
    `example`: what was computed of all its examples is theirs by `values[places]`. correct: [n] of 0 and 1. images:
    [n], the content hash of each image.
    """

    data: xr.Dataset
    places: np.ndarray
    dataset: str
    split: str
    rule: str
    correct: np.ndarray
    images: np.ndarray
    note: str | None

    def __len__(self) -> int:
        return len(self.correct)

    @property
    def ids(self) -> np.ndarray:
        """[n], the examples' ids."""
        ids: np.ndarray = self.data["example"].values
        return ids

    def where(self, keep: np.ndarray, why: str) -> Population:
        """The examples for which `keep` is true; `why` the others are left out goes into the note."""
        if keep.all():
            return self
        return replace(
            self,
            data=self.data.isel(example=np.flatnonzero(keep)),
            places=self.places[keep],
            correct=self.correct[keep],
            images=self.images[keep],
            note=joined(self.note, f"{int((~keep).sum())} {why}"),
        )

    @cached_property
    def _counts(self) -> dict[str, Any]:
        parsed = ~np.isnan(self.correct)
        return {
            "n": len(self),
            "n_items": len(set(zip(self.images, self.data["question"].values, strict=True))),
            "n_images": len(set(self.images)),
            "base_rate": float(self.correct[parsed].mean()) if parsed.any() else None,
        }

    def row(
        self, metric: str, statistic: str, estimate: Estimate | None, note: str | None = None, **more: Any
    ) -> dict[str, Any]:
        """One row for result_table, without a value where there is no estimate; `more` may give position, layer, head
        and at.
        """
        return {
            "run": self.data.attrs["run"],
            "dataset": self.dataset,
            "split": self.split,
            "rule": self.rule,
            "metric": metric,
            "statistic": statistic,
            **(asdict(estimate) if estimate else dict.fromkeys(field.name for field in fields(Estimate))),
            **self._counts,
            "note": joined(self.note, note),
            **more,
        }

    def refusal(self, metric: str, statistic: str, error: VlmlakeError, **more: Any) -> dict[str, Any]:
        """The row of a statistic that its estimator refused: no value, and the reason as its note."""
        return self.row(metric, statistic, None, note=str(error), **more)

    def estimated(
        self, metric: str, statistic: str, estimator: Callable[[], Estimate], note: str | None = None, **more: Any
    ) -> dict[str, Any]:
        """The row of what an estimator gives when it is called, or of its refusal."""
        try:
            return self.row(metric, statistic, estimator(), note, **more)
        except VlmlakeError as error:
            return self.row(metric, statistic, None, joined(note, str(error)), **more)


def population(data: xr.Dataset, split: str = ALL_SPLITS, rule: str = DEFAULT_RULE) -> Population:
    """The labelled examples of one split, or of all: a pair that several splits ask is then counted once.

    Raises VlmlakeError if nothing is left.
    """
    answered = with_unparsed(data, split, rule)
    parsed = ~np.isnan(answered.correct)
    if not parsed.any():
        why = joined(answered.note, f"{len(parsed)} unparsed" if len(parsed) else None)
        raise VlmlakeError(
            f"run {data.attrs['run']} has no labelled examples of split {split} under the rule {rule}"
            f"{f' ({why})' if why else ''}"
        )
    return answered.where(parsed, "unparsed")


def populations(data: xr.Dataset, rule: str = DEFAULT_RULE) -> list[Population]:
    """The labelled examples pooled, and those of each split that has some.

    Raises VlmlakeError if there are none at all.
    """
    pooled, *splits = splits_of(data)
    answered = [with_unparsed(data, split, rule) for split in splits]
    labelled = [one.where(~np.isnan(one.correct), "unparsed") for one in answered]
    return [population(data, pooled, rule), *(one for one in labelled if len(one))]


def with_unparsed(data: xr.Dataset, split: str = ALL_SPLITS, rule: str = DEFAULT_RULE) -> Population:
    """The same with the answers that the rule cannot read: `correct` is NaN for them. It may be empty."""
    chosen = np.ones(data.sizes["example"], bool) if split == ALL_SPLITS else data["split"].values == split
    pairs = np.char.add(data["image_sha256"].values.astype(str), data["question"].values.astype(str))
    _, first = np.unique(np.where(chosen, pairs, ""), return_index=True)
    kept = np.zeros(len(chosen), bool)
    kept[first] = True
    asked = np.flatnonzero(kept & chosen)
    scores, labelled = judged(data["answer"].values[asked], data["gold"].values[asked], rule)
    places = asked[labelled]
    used = data.drop_vars(list(data.data_vars)).isel(example=places)
    told = np.array([isinstance(gold, str) for gold in data["gold"].values[asked]], bool)
    without, unlike = int((~told).sum()), int((told & ~labelled).sum())
    return Population(
        data=used,
        places=places,
        dataset="+".join(sorted(set(data["dataset"].values[asked]))),
        split=split,
        rule=rule,
        correct=right_or_wrong(scores[labelled]),
        images=used["image_sha256"].values,
        note=joined(
            f"{without} without a gold answer" if without else None,
            f"{unlike} {rule_named(rule).without}" if unlike else None,
        ),
    )


def joined(*notes: str | None) -> str | None:
    """The notes that there are, as one; None where there are none."""
    return "; ".join(filter(None, notes)) or None


def splits_of(data: xr.Dataset) -> list[str]:
    """The splits of a run in order of appearance, after the pooled one."""
    return [ALL_SPLITS, *dict.fromkeys(data["split"].values.tolist())]
