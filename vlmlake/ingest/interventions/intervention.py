"""A request made concrete for one run: which examples, which conditions, under which name they are kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property

import numpy as np
import polars as pl

from vlmlake.errors import VlmlakeError
from vlmlake.ingest.families import Family
from vlmlake.ingest.interventions.edited.edits import Place
from vlmlake.ingest.interventions.masks.patches import masks_of
from vlmlake.ingest.interventions.outcomes import present
from vlmlake.ingest.interventions.requests.calibration import Activations, calibration_examples, of_model, of_store
from vlmlake.ingest.interventions.requests.conditions import Condition, distinct, unchanged
from vlmlake.ingest.interventions.requests.masking import Masking
from vlmlake.ingest.interventions.requests.subject import Request, Subject
from vlmlake.ingest.interventions.routes import CHEAPEST, Pairs, Plan, batches_of, plan_routes, require_route
from vlmlake.ingest.replay_job import Sources, load_same_model, plan_again
from vlmlake.ingest.work import Work
from vlmlake.store_schema import paths, tables
from vlmlake.store_schema.batches import Batch
from vlmlake.store_schema.run import Run
from vlmlake.store_schema.run_record import fingerprint
from vlmlake.store_schema.workers import Worker

Masks = Mapping[tuple[str, int], Mapping[str, tuple[int, ...]]]
"""Patches by set and member, then by example."""

WHERE_RECORDED = Sources()


@dataclass(frozen=True)
class Settings:
    """How an intervention is carried out.

    answer_tokens: the longest answer, as in the run unless given. route: of routes.ROUTES. sources: where the model and
    the data are now. worker: which of how many share the batches of examples.
    """

    answer_tokens: int | None = None
    route: str = CHEAPEST
    sources: Sources = WHERE_RECORDED
    worker: Worker = field(default_factory=Worker)

    def __post_init__(self) -> None:
        require_route(self.route)
        if self.answer_tokens is not None and self.answer_tokens < 1:
            raise VlmlakeError(f"answer tokens is {self.answer_tokens}, expected at least 1")


@dataclass(frozen=True)
class Intervention:
    """asked: rows of tables.EXAMPLES and ANSWERS that are asked about; spare: those to measure activations on."""

    run: Run
    request: Request
    settings: Settings
    asked: pl.DataFrame
    spare: pl.DataFrame

    @classmethod
    def of(cls, run: Run, request: Request, given: Sequence[str] | None, settings: Settings) -> Intervention:
        """given: ids of examples, or none for those that the request takes by itself.

        Raises VlmlakeError for a request that the run cannot answer.
        """
        asked, spare = request.examples(run, given)
        seed = int(getattr(request, "seed", 0))
        return cls(run, request, settings, asked.sort("row", "example"), calibration_examples(spare, seed))

    @property
    def answer_tokens(self) -> int:
        return self.settings.answer_tokens or int(self.run.record.identity["generation"]["answer_tokens"])

    @cached_property
    def id(self) -> str:
        """The same request of the same examples and findings has the same."""
        return f"{self.request.kind}-{fingerprint(json.loads(self.told))[:8]}"

    @cached_property
    def told(self) -> str:
        """The request and what else decides its conditions, as JSON."""
        facts = {
            **asdict(self.request),  # type: ignore[call-overload]
            **self.request.facts(self._subject),
            "answer_tokens": self.answer_tokens,
            "examples": self.asked.height,
            "examples_sha256": _digest(self.asked),
            "spare_sha256": _digest(self.spare),
        }
        return json.dumps(facts, sort_keys=True)

    @property
    def path(self) -> str:
        """Of its rows of tables.INTERVENTIONS."""
        return paths.finding("interventions", self.id, self.run.name, "spec")

    @property
    def is_settled(self) -> bool:
        """Whether its conditions are in the lake, with all values."""
        return self.run.storage.exists(self.path)

    def settle(self) -> None:
        """Write the conditions, values and all, unless they are there: who does so first decides for all workers.

        Raises VlmlakeError, before anything is written, if the model or the data that they need are not there, or the
        images cannot be masked so.
        """
        if self.is_settled:
            return
        if self.plan().needs_model:
            self._require_possible()
        conditions = self._made(replace(self._subject, measure=self._measured))
        asked = self.asked["example"].to_list()
        rows = [condition.row(self.run.name, self.id, self.told, asked) for condition in conditions]
        self.run.storage.create(self.path, tables.to_parquet(rows, tables.INTERVENTIONS))

    @cached_property
    def conditions(self) -> tuple[Condition, ...]:
        """Each once, the model as it is first. Raises VlmlakeError before they are settled."""
        if not self.is_settled:
            raise VlmlakeError(f"the conditions of {self.id} are not settled yet")
        rows = tables.read(self.run.storage, [self.path], tables.INTERVENTIONS).to_pylist()
        if any(row["settings"] != self.told for row in rows):
            raise VlmlakeError(f"{self.path} of {self.run.storage.url} is that of another request: delete it")
        return distinct([Condition.of_row(row) for row in rows])

    def plan(self, done: Pairs | None = None) -> Plan:
        """What is to be done. Before the conditions are settled nothing of it is known to be there.

        done: what `done` says, where it was asked already.
        """
        if not self.is_settled:
            return plan_routes(self.run, distinct(self._made(self._subject)), self.asked, set(), self.settings.route)
        there = self.done() if done is None else done
        return plan_routes(self.run, self.conditions, self.asked, there, self.settings.route)

    def done(self) -> set[tuple[str, str]]:
        """Ids of the conditions and examples of the run whose outcomes are there."""
        return set(present(self.run).select("condition", "example").iter_rows())

    @cached_property
    def questions(self) -> pl.DataFrame:
        """Of `asked` one a row of the arrays."""
        return self.asked.unique("row", keep="first", maintain_order=True)

    @cached_property
    def batches(self) -> tuple[Batch, ...]:
        """Of places in `questions`."""
        return batches_of(self.run, self.questions)

    @cached_property
    def family(self) -> Family:
        """The run's model, loaded when it is needed. Raises VlmlakeError if it is not there."""
        return load_same_model(self.run.record, self.settings.sources)

    def work(self, rows: pl.DataFrame) -> Work:
        """What the model takes for these rows. Raises VlmlakeError if their questions or images are others now."""
        options = dict(self.run.storage.options)
        return plan_again(self.run.record, self.family, rows.to_dicts(), self.settings.sources, options)

    @cached_property
    def asked_work(self) -> Work:
        """That of the examples that are asked about. Raises VlmlakeError as `work` does."""
        work = self.work(self.asked)
        if tuple(work.batches) != self.batches:
            raise VlmlakeError(f"the data of {self.run.name} make other batches than it has now")
        return work

    @cached_property
    def masks(self) -> Masks:
        """Raises VlmlakeError where patches cannot be chosen or covered."""
        if not isinstance(self.request, Masking):
            return {}
        for size in {item.size for item in self.asked_work.items}:
            self.family.seen_region(size)
        return masks_of(self.run, self.asked["example"].to_list(), self.request)

    def _require_possible(self) -> None:
        longest = int((self.asked["prefix_tokens"] + self.asked["suffix_tokens"]).max() or 0)  # type: ignore[arg-type]
        if longest + self.answer_tokens > self.family.longest_sequence:
            raise VlmlakeError(
                f"answers of {self.answer_tokens} tokens after prompts of {longest} are longer than the model's "
                f"{self.family.longest_sequence} positions: lower --answer-tokens"
            )
        _ = self.asked_work, self.masks

    @property
    def _subject(self) -> Subject:
        return Subject(self.run, self.asked, self.spare, self.answer_tokens, self._unmeasured)

    def _made(self, subject: Subject) -> tuple[Condition, ...]:
        return (unchanged(self.answer_tokens), *self.request.conditions(subject))

    def _measured(self, place: Place, positions: str, examples: Sequence[str]) -> Activations:
        found = of_store(self.run, place, positions, examples)
        return of_model(self.family, self.work(self.spare), place, positions) if found is None else found

    def _unmeasured(self, place: Place, positions: str, examples: Sequence[str]) -> Activations:
        """In place of activations where only the number of conditions and their blocks count."""
        nothing = np.zeros(self._subject.width(place[0]), np.float32)
        return Activations(nothing, nothing)


def _digest(rows: pl.DataFrame) -> str:
    return hashlib.sha256("\n".join(sorted(rows["example"])).encode()).hexdigest()
