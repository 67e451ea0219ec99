"""The labelled examples that a statistic is computed on, and the passport that every row of a result table carries."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr

from vlmlake.analysis.rules import DEFAULT_RULE, correctness
from vlmlake.analysis.statistics.estimate import Estimate
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
        return {
            "n": len(self),
            "n_items": len(set(zip(self.images, self.data["question"].values, strict=True))),
            "n_images": len(set(self.images)),
            "base_rate": float(self.correct.mean()) if len(self) else None,
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


def population(data: xr.Dataset, split: str = ALL_SPLITS, rule: str = DEFAULT_RULE) -> Population:
    """The labelled examples of one split, or of all: a pair that several splits ask is then counted once.

    Raises VlmlakeError if nothing is left.
    """
    chosen = np.ones(data.sizes["example"], bool) if split == ALL_SPLITS else data["split"].values == split
    pairs = np.char.add(data["image_sha256"].values.astype(str), data["question"].values.astype(str))
    _, first = np.unique(np.where(chosen, pairs, ""), return_index=True)
    kept = np.zeros(len(chosen), bool)
    kept[first] = True
    rows = np.flatnonzero(kept & chosen)
    with_gold = np.array([isinstance(gold, str) for gold in data["gold"].values[rows]], bool)
    without_gold, rows = int((~with_gold).sum()), rows[with_gold]
    verdicts = correctness(data["answer"].values[rows], data["gold"].values[rows], rule)
    parsed = ~np.isnan(verdicts)
    if not parsed.any():
        raise VlmlakeError(f"run {data.attrs['run']} has no labelled examples of split {split} under the rule {rule}")
    left_out = int((~parsed).sum())
    places = rows[parsed]
    used = data.drop_vars(list(data.data_vars)).isel(example=places)
    return Population(
        data=used,
        places=places,
        dataset="+".join(sorted(set(used["dataset"].values))),
        split=split,
        rule=rule,
        correct=verdicts[parsed],
        images=used["image_sha256"].values,
        note=joined(
            f"{left_out} unparsed" if left_out else None,
            f"{without_gold} without a gold answer" if without_gold else None,
        ),
    )


def joined(*notes: str | None) -> str | None:
    """The notes that there are, as one; None where there are none."""
    return "; ".join(filter(None, notes)) or None


def splits_of(data: xr.Dataset) -> list[str]:
    """The splits of a run in order of appearance, after the pooled one."""
    return [ALL_SPLITS, *dict.fromkeys(data["split"].values.tolist())]
