"""Outcomes that a lake holds, beside those of another, and a request that says what is set to what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl

from vlmlake import open_lake
from vlmlake.ingest.interventions.edited.edits import Edit
from vlmlake.ingest.interventions.outcomes import present
from vlmlake.ingest.interventions.requests.conditions import ABLATE, ALL, Condition, block_number
from vlmlake.ingest.interventions.requests.subject import Request, Subject, chosen_examples, without_images_of
from vlmlake.store_schema.run import Run

NUMBERS = ("first_log_prob", "first_gap", "first_logit", "gold_logit", "margin", "yes_minus_no")
SAID = ("condition", "example", "answer", "answer_tokens", "token_ids", "finish", "labels")


@dataclass(frozen=True)
class Drawn(Request):
    """Set coordinates that are drawn to values that are drawn, one condition for each strength."""

    kind: ClassVar[str] = ABLATE

    site: str
    layer: str
    positions: str = ALL
    strengths: tuple[float, ...] = (0.0, 2.0, 8.0, 60.0)
    count: int = 24
    seed: int = 0

    def conditions(self, subject: Subject) -> tuple[Condition, ...]:
        rng = np.random.default_rng(self.seed)
        found = []
        for strength in self.strengths:
            neurons = rng.choice(subject.width(self.site), self.count, replace=False)
            values = strength * rng.normal(size=self.count)
            edit = Edit(self.site, block_number(self.layer), neurons, values)
            told = {"site": self.site, "layer": self.layer, "positions": self.positions, "k": self.count}
            found.append(Condition(ABLATE, "given", subject.answer_tokens, edits=(edit,), **told))
        return tuple(found)


@dataclass(frozen=True)
class Together(Request):
    """The conditions of several requests at once, whose positions are the same."""

    requests: tuple[Any, ...]

    @property
    def kind(self) -> str:
        return self.requests[0].kind

    def examples(self, run: Run, given: Sequence[str] | None) -> tuple[pl.DataFrame, pl.DataFrame]:
        rows = chosen_examples(run, given)
        return rows, without_images_of(run.examples(), rows)

    def conditions(self, subject: Subject) -> tuple[Condition, ...]:
        return tuple(condition for request in self.requests for condition in request.conditions(subject))


@dataclass(frozen=True)
class Towards(Request):
    """Make the residual stream after the last block such that one token comes first."""

    kind: ClassVar[str] = ABLATE

    token: int

    def conditions(self, subject: Subject) -> tuple[Condition, ...]:
        data = subject.run.dataset()
        reads = data["unembedding"].values * data["final_norm"].values
        stream = reads[self.token] - reads.mean(axis=0)
        edit = Edit("resid", subject.blocks - 1, np.arange(len(stream)), 10 * stream / np.abs(stream).max())
        return (Condition(ABLATE, "given", subject.answer_tokens, positions=ALL, edits=(edit,)),)


def outcomes(url: str | Path, run: str) -> pl.DataFrame:
    """Each condition and example once, in order."""
    return present(open_lake(str(url)).run(run)).sort("condition", "example")


def require_same(found: pl.DataFrame, wanted: pl.DataFrame, atol: float = 1e-4) -> None:
    """The same answers of the same examples under the same conditions, and numbers that differ by no more."""
    assert found.height == wanted.height > 0
    for name in SAID:
        assert found[name].to_list() == wanted[name].to_list(), name
    for name in NUMBERS:
        assert found[name].is_null().to_list() == wanted[name].is_null().to_list(), name
        np.testing.assert_allclose(found[name].to_numpy(), wanted[name].to_numpy(), atol=atol, rtol=1e-5, err_msg=name)
