"""What an intervention is made on: a run, the examples that are asked about, and what can be measured beside them."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import polars as pl

from vlmlake.errors import VlmlakeError
from vlmlake.ingest.interventions.edited.edits import HEAD_OUT, Place
from vlmlake.ingest.interventions.requests.calibration import Activations
from vlmlake.ingest.interventions.requests.conditions import Condition, block_label
from vlmlake.store_schema.run import Run

Measure = Callable[[Place, str, Sequence[str]], Activations]
"""Activations of a site, at `all` or `prompt_last`, over examples by their ids."""


@dataclass(frozen=True)
class Subject:
    """examples: rows of tables.EXAMPLES that are asked about; spare: those whose images are not, for measuring."""

    run: Run
    examples: pl.DataFrame
    spare: pl.DataFrame
    answer_tokens: int
    measure: Measure

    @property
    def blocks(self) -> int:
        return int(self.run.record.identity["model"]["blocks"])

    @property
    def head_width(self) -> int:
        return int(self.run.record.identity["model"]["head_width"])

    @property
    def heads(self) -> int:
        return self.run.record.extents.heads

    def width(self, site: str) -> int:
        """How many coordinates a site has."""
        return self.heads * self.head_width if site == HEAD_OUT else self.run.record.extents.hidden

    def require_block(self, layer: str) -> None:
        """Raises VlmlakeError if the model has no such block."""
        labels = [block_label(number) for number in range(self.blocks)]
        if layer not in labels:
            raise VlmlakeError(f"{self.run.name} has no layer {layer}: its blocks are {labels[0]} to {labels[-1]}")


class Request(ABC):
    """What is asked for: a frozen dataclass of plain values. kind: one of conditions' kinds."""

    kind: ClassVar[str]

    def examples(self, run: Run, given: Sequence[str] | None) -> tuple[pl.DataFrame, pl.DataFrame]:
        """The examples that are asked about, and those of other images, where activations are measured. given: ids, or
        none for the usual ones: all.

        Raises VlmlakeError for examples that must not be asked about, or that are not there.
        """
        rows = chosen_examples(run, given)
        return rows, rows.clear()

    def facts(self, subject: Subject) -> Mapping[str, Any]:
        """What beside the request and the examples decides the conditions, as JSON values."""
        return {}

    @abstractmethod
    def conditions(self, subject: Subject) -> tuple[Condition, ...]:
        """All but the model as it is. Raises VlmlakeError for what the run or the model does not have."""


def chosen_examples(run: Run, given: Sequence[str] | None) -> pl.DataFrame:
    """Rows of tables.EXAMPLES and ANSWERS of a run: those given by id, or all.

    Raises VlmlakeError if one is not there, or none is left.
    """
    rows = run.examples()
    if given is not None:
        wanted = set(given)
        missing = sorted(wanted - set(rows["example"]))
        if missing:
            raise VlmlakeError(f"run {run.name} has no example {missing[0]}; `examples` lists those it has")
        rows = rows.filter(pl.col("example").is_in(wanted))
    if rows.is_empty():
        raise VlmlakeError(f"no example of {run.name} is left to ask about: expected at least one")
    return rows


def without_images_of(rows: pl.DataFrame, others: pl.DataFrame) -> pl.DataFrame:
    """The rows about images that `others` do not ask about."""
    return rows.filter(~pl.col("image_sha256").is_in(others["image_sha256"].unique().to_list()))


def half_of_images(rows: pl.DataFrame, seed: int) -> pl.DataFrame:
    """The rows of about half of the images, by a seeded hash of the image's own."""
    images = rows["image_sha256"].unique(maintain_order=True).to_list()
    kept = [image for image in images if hashlib.sha256(f"{seed}:{image}".encode()).digest()[0] < 128]
    return rows.filter(pl.col("image_sha256").is_in(kept))


def examples_and_spare(run: Run, given: Sequence[str] | None, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Examples to ask about, and those of other images: half of the images each, unless the first are given.

    Raises VlmlakeError if one of the two is empty.
    """
    rows = chosen_examples(run, None)
    asked = half_of_images(rows, seed) if given is None else chosen_examples(run, given)
    spare = without_images_of(rows, asked)
    if asked.is_empty() or spare.is_empty():
        raise VlmlakeError(
            f"of the images of {run.name} none is left to measure activations on: ask about fewer of them"
        )
    return asked, spare
