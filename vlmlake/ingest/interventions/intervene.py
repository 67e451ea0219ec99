"""From a request to outcomes in the lake: the plan, and the pass that makes what is missing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl
import torch

from vlmlake.answers.spellings import Vocabulary
from vlmlake.ingest.interventions.algebra import Weights, answers_from_store
from vlmlake.ingest.interventions.batch import Asking
from vlmlake.ingest.interventions.intervention import Intervention, Settings
from vlmlake.ingest.interventions.outcomes import Outcomes, Reader, present
from vlmlake.ingest.interventions.requests.conditions import Condition, unchanged
from vlmlake.ingest.interventions.requests.subject import Request
from vlmlake.ingest.interventions.routes import ALGEBRA, SUFFIX, Group, Plan
from vlmlake.ingest.interventions.texts import StoredTexts, Texts, TokenizerTexts
from vlmlake.ingest.loader import load_ahead
from vlmlake.store_schema import paths
from vlmlake.store_schema.batches import Batch
from vlmlake.store_schema.index import refresh_index
from vlmlake.store_schema.lake import open_lake
from vlmlake.store_schema.run_record import fingerprint

USUAL = Settings()


@dataclass(frozen=True)
class Progress:
    """done, total: pairs of conditions and examples, of all workers; seconds since this one began."""

    run: str
    done: int
    total: int
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """What an intervention came to. computed: pairs of conditions and examples by this pass; missing: those that are
    left to other workers. differing: examples whose answer under no change is not the stored one, of `compared`.
    """

    intervention: str
    run: str
    plan: Plan
    computed: int
    missing: int
    differing: int
    compared: int
    seconds: float


def plan_intervention(
    url: str,
    run: str,
    request: Request,
    examples: Sequence[str] | None = None,
    settings: Settings = USUAL,
    storage_options: Mapping[str, Any] | None = None,
) -> Plan:
    """What `intervene` would do; no model is loaded and nothing is written.

    Raises VlmlakeError for a request that the run cannot answer.
    """
    return Intervention.of(open_lake(url, storage_options).run(run), request, examples, settings).plan()


def intervene(
    url: str,
    run: str,
    request: Request,
    examples: Sequence[str] | None = None,
    settings: Settings = USUAL,
    storage_options: Mapping[str, Any] | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
    tell: Callable[[Plan], None] = lambda plan: None,
) -> Outcome:
    """Ask a run's questions again under every condition of a request, and keep what the model says in the lake.

    request: Ablation, HeadAblation, Bypass, Patching or Masking. examples: ids, or none for those that the request
    takes by itself. Outcomes that are there, of this intervention or another, are not made again. Each batch of
    examples is kept once it is done, so that the same call goes on with a pass that was cut off. tell: is told the plan
    once the conditions are settled. report: is called after every batch.

    Raises VlmlakeError for a request that the run cannot answer, or for a model or data that are not the run's; what
    was kept before stays.
    """
    lake = open_lake(url, storage_options)
    lake.storage.require_writable()
    intervention = Intervention.of(lake.run(run), request, examples, settings)
    began = time.monotonic()
    settled = intervention.is_settled
    intervention.settle()
    there = intervention.done()
    plan = intervention.plan(there)
    tell(plan)
    passing = _Pass(intervention, plan, report, began, there)
    try:
        passing.by_algebra()
        passing.by_model()
    finally:
        if passing.computed or not settled:
            refresh_index(lake.storage)
    return passing.outcome()


@dataclass
class _Pass:
    """One worker's way through what is missing. done: ids of conditions and examples."""

    intervention: Intervention
    plan: Plan
    report: Callable[[Progress], None]
    began: float
    done: set[tuple[str, str]]
    computed: int = 0
    vocabulary: Vocabulary = field(init=False)

    def __post_init__(self) -> None:
        self.vocabulary = Vocabulary.of(self.intervention.run.vocabulary)

    def by_algebra(self) -> None:
        """What the store tells by itself."""
        todo = list(self._batches([group for group in self.plan.groups if group.route == ALGEBRA]))
        if not todo:
            return
        run, limit = self.intervention.run, self.intervention.answer_tokens
        texts = StoredTexts(run)
        weights = Weights.of(run, texts.ends)
        for batch, conditions in todo:
            rows, outcomes = self.intervention.questions[list(batch.examples)], self._outcomes(texts, batch)
            for said in answers_from_store(run, weights, conditions, rows, limit):
                known = [ids if ids is not None and texts.knows(ids) else None for ids in said.ids]
                outcomes.add(said.condition, ALGEBRA, torch.from_numpy(said.logits), known, self._is_missing)
            self._keep(batch, outcomes)

    def by_model(self) -> None:
        """What it has to be run for: also answers that the algebra began and the store does not go on with."""
        groups = [replace(one, route=SUFFIX) if one.route == ALGEBRA else one for one in self.plan.groups]
        todo = list(self._batches(groups))
        if not todo:
            return
        work, texts = self.intervention.asked_work, TokenizerTexts(self.intervention.family)
        loaded = load_ahead(work, self.intervention.family, [batch.number for batch, _ in todo])
        for (batch, conditions), (_, questions) in zip(todo, loaded, strict=True):
            outcomes, chosen = self._outcomes(texts, batch), set(conditions)
            asking = Asking(self.intervention, work, batch, questions)
            for group in groups:
                for condition, logits, ids in asking.answered(
                    group, [one for one in group.conditions if one in chosen]
                ):
                    outcomes.add(condition, group.route, logits, ids, self._is_missing)
            self._keep(batch, outcomes)

    def _batches(self, groups: Sequence[Group]) -> Iterator[tuple[Batch, list[Condition]]]:
        """This worker's batches with the conditions that some example of it lacks an outcome of."""
        asked = self.intervention.asked.group_by("row").agg("example")
        examples = dict(asked.iter_rows())
        rows = self.intervention.questions["row"].to_list()
        for batch in self.intervention.batches:
            if not self.intervention.settings.worker.owns(batch.number):
                continue
            there = [example for place in batch.examples for example in examples[rows[place]]]
            missing = [
                condition
                for group in groups
                for condition in group.conditions
                if any(self._is_missing(condition, example) for example in there)
            ]
            if missing:
                yield batch, missing

    def _is_missing(self, condition: Condition, example: str) -> bool:
        return condition.concerns(example) and (condition.id, example) not in self.done

    def _outcomes(self, texts: Texts, batch: Batch) -> Outcomes:
        """Empty, for the examples of a batch. The logits that are added have a row for each of its questions."""
        rows = self.intervention.questions["row"].to_list()
        places = {rows[place]: number for number, place in enumerate(batch.examples)}
        asked = self.intervention.asked.filter(pl.col("row").is_in(list(places)))
        questions = [places[row] for row in asked["row"]]
        reader = Reader(self.intervention.run.name, self.intervention.id, self.vocabulary, texts)
        return Outcomes(reader, reader.asked(asked, questions))

    def _keep(self, batch: Batch, outcomes: Outcomes) -> None:
        if len(outcomes):
            part = f"{batch.number:06d}-{fingerprint(sorted(outcomes.keys))[:12]}"
            path = paths.finding("outcomes", self.intervention.id, self.intervention.run.name, part)
            self.intervention.run.storage.write(path, outcomes.encoded())
            self.done.update(outcomes.keys)
            self.computed += len(outcomes)
        done = self.plan.done + self.computed
        self.report(Progress(self.intervention.run.name, done, self.plan.pairs, time.monotonic() - self.began))

    def outcome(self) -> Outcome:
        """After the pass."""
        intervention, rows = self.intervention, present(self.intervention.run)
        there = set(rows.select("condition", "example").iter_rows())
        as_is = rows.filter(pl.col("condition") == unchanged(intervention.answer_tokens).id)
        stored = intervention.asked.select("example", stored="answer")
        if intervention.answer_tokens != intervention.run.record.identity["generation"]["answer_tokens"]:
            stored = stored.clear()
        compared = as_is.join(stored, on="example")
        missing = sum(
            condition.concerns(example) and (condition.id, example) not in there
            for condition in intervention.conditions
            for example in intervention.asked["example"]
        )
        return Outcome(
            intervention=intervention.id,
            run=intervention.run.name,
            plan=self.plan,
            computed=self.computed,
            missing=missing,
            differing=int((compared["answer"] != compared["stored"]).sum()),
            compared=compared.height,
            seconds=time.monotonic() - self.began,
        )
