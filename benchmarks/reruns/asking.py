"""One intervention on a copy of the lake, where nothing is there already: its outcomes, how long it took, what ran."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import polars as pl
from ways import remove

from reruns.counted import counting
from vlmlake.ingest.families import Family
from vlmlake.ingest.interventions import intervention
from vlmlake.ingest.interventions.intervene import intervene
from vlmlake.ingest.interventions.intervention import Settings
from vlmlake.ingest.interventions.outcomes import present
from vlmlake.ingest.interventions.requests.subject import Request
from vlmlake.ingest.interventions.routes import Plan
from vlmlake.ingest.replay_job import Sources
from vlmlake.store_schema.lake import open_lake


@dataclass(frozen=True)
class Clocked:
    """seconds, evaluations: of a part of the work."""

    seconds: float
    evaluations: int


@dataclass(frozen=True)
class Answered:
    """settling: until the conditions are there, activations measured for their values included; asking: all the rest.
    outcomes: rows of tables.OUTCOMES.
    """

    plan: Plan
    settling: Clocked
    asking: Clocked
    outcomes: pl.DataFrame = field(repr=False)

    @property
    def seconds(self) -> float:
        return self.settling.seconds + self.asking.seconds

    @property
    def evaluations(self) -> int:
        return self.settling.evaluations + self.asking.evaluations


@dataclass(frozen=True)
class Asker:
    """lake: with one run; images: the folder of the questions' images; the model as `load_family` gives it."""

    lake: Path
    images: Path
    family: Family

    def answered(self, request: Request, route: str, answer_tokens: int | None = None) -> Answered:
        """Everything but loading the model is in the measured time: images are read, outcomes are written."""
        copy = self.lake.with_name("copy")
        shutil.copytree(self.lake, copy)
        (name,) = open_lake(str(copy))
        sources = Sources(model="loaded", images=str(self.images), device=self.family.device.type)
        settings = Settings(answer_tokens, route, sources)
        settled: list[Clocked] = []
        with patch.object(intervention, "load_same_model", lambda *_: self.family), counting(self.family) as counted:
            began = time.perf_counter()

            def settle(plan: Plan) -> None:
                settled.append(Clocked(time.perf_counter() - began, counted.evaluations))

            outcome = intervene(str(copy), name, request, None, settings, tell=settle)
            whole = Clocked(time.perf_counter() - began, counted.evaluations)
        assert outcome.missing == 0
        rows = present(open_lake(str(copy)).run(name))
        remove(copy)
        settling = settled[0]
        asking = Clocked(whole.seconds - settling.seconds, whole.evaluations - settling.evaluations)
        return Answered(outcome.plan, settling, asking, rows)


NUMBERS = ("gold_logit", "first_logit", "margin")


@dataclass(frozen=True)
class Difference:
    """Between the outcomes that two ways have in common. largest: of NUMBERS. answers: how many are not the same
    tokens, of `pairs` of conditions and examples.
    """

    largest: float
    answers: int
    pairs: int

    @classmethod
    def between(cls, one: pl.DataFrame, other: pl.DataFrame) -> Difference:
        both = one.join(other, on=["condition", "example"], suffix="_other")
        numbers = [(pl.col(name) - pl.col(f"{name}_other")).abs().max() for name in NUMBERS]
        differing = both.filter(pl.col("token_ids") != pl.col("token_ids_other"))
        assert both.height == min(one.height, other.height) > 0
        assert both.select(pl.col(*NUMBERS).is_not_null().all()).row(0) == (True,) * len(NUMBERS)
        return cls(max(both.select(numbers).row(0)), differing.height, both.height)
