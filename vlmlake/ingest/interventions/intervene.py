"""From a request to outcomes in the lake: its conditions, the plan, and the passes that make what is missing."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import torch

from vlmlake.answers.spellings import Vocabulary
from vlmlake.errors import VlmlakeError
from vlmlake.ingest.families import Family
from vlmlake.ingest.generation import Questions
from vlmlake.ingest.interventions import algebra
from vlmlake.ingest.interventions.calibration import Activations, calibration_examples, of_model, of_store
from vlmlake.ingest.interventions.conditions import (
    ALL,
    MASK,
    PATCH,
    PROMPT_LAST,
    Condition,
    distinct,
    unchanged,
)
from vlmlake.ingest.interventions.decode import answer
from vlmlake.ingest.interventions.edits import Edit, Place
from vlmlake.ingest.interventions.full import rerun
from vlmlake.ingest.interventions.masking import Masking, masked_questions, masks_of
from vlmlake.ingest.interventions.outcomes import Asked, Outcomes, Reader, part_path, present
from vlmlake.ingest.interventions.patching import donated
from vlmlake.ingest.interventions.routes import ALGEBRA, CHEAPEST, FULL, SUFFIX, Group, Plan, plan_routes
from vlmlake.ingest.interventions.subject import Request, Subject
from vlmlake.ingest.interventions.suffix import Positions, start
from vlmlake.ingest.loader import load_ahead
from vlmlake.ingest.replay_job import Sources, load_same_model, plan_again
from vlmlake.ingest.work import Work
from vlmlake.store_schema import paths, tables
from vlmlake.store_schema.batches import Batch
from vlmlake.store_schema.index import refresh_index
from vlmlake.store_schema.lake import open_lake
from vlmlake.store_schema.run import Run
from vlmlake.store_schema.run_record import fingerprint
from vlmlake.store_schema.workers import Worker

WHERE_RECORDED = Sources()
MEMORY = {"cpu": 2**30, "cuda": 16 * 2**30}
"""Bytes that the rows of one stack of conditions may take, about, by the device's type."""
NUMBERS_A_TOKEN = 8
"""Of the residual stream's width that a token takes while a block runs, about."""


@dataclass(frozen=True)
class Progress:
    """done, total: pairs of conditions and examples, this worker's; seconds since it began."""

    run: str
    done: int
    total: int
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """What an intervention came to. computed: pairs of conditions and examples by this pass; differing: examples whose
    answer under no change is not the stored one, of `compared`; missing: pairs that other workers have to do.
    """

    intervention: str
    run: str
    plan: Plan
    conditions: int
    computed: int
    missing: int
    differing: int
    compared: int
    seconds: float


@dataclass(frozen=True)
class Settings:
    """How an intervention is carried out; none of it changes an outcome but by rounding.

    answer_tokens: the longest answer, as in the run unless given. route: of routes.ROUTES. worker: which of how many
    share the batches of examples.
    """

    answer_tokens: int | None = None
    route: str = CHEAPEST
    sources: Sources = WHERE_RECORDED
    worker: Worker = field(default_factory=Worker)

    def __post_init__(self) -> None:
        if self.answer_tokens is not None and self.answer_tokens < 1:
            raise VlmlakeError(f"answer tokens is {self.answer_tokens}, expected at least 1")


USUAL = Settings()


def plan_intervention(
    url: str,
    run: str,
    request: Request,
    examples: Sequence[str] | None = None,
    settings: Settings = USUAL,
    storage_options: Mapping[str, Any] | None = None,
) -> Plan:
    """What `intervene` would do, before anything runs; no model is loaded and nothing is written.

    What is there is counted once an intervention was begun.

    Raises VlmlakeError for a request that the run cannot answer.
    """
    lake = open_lake(url, storage_options)
    return _Intervention.of(lake.run(run), request, examples, settings).plan(lake.index().of("outcomes"))


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
    """Ask the run's questions again under every condition of a request, and keep what the model says in the lake.

    request: Ablation, HeadAblation, Bypass, Patching or Masking. examples: ids, or those that the request takes by
    itself. Outcomes that are there, of this or another intervention, are not made again; each batch of examples is kept
    once it is done, so that a pass which was cut off goes on. The same conditions written by several workers are one.
    tell: is told the plan before anything runs. report: after every batch.

    Raises VlmlakeError for a request that the run cannot answer, or a model or data that are not the run's.
    """
    lake = open_lake(url, storage_options)
    lake.storage.require_writable()
    asked = _Intervention.of(lake.run(run), request, examples, settings)
    asked.settle()
    plan = asked.plan(lake.index().of("outcomes"))
    tell(plan)
    done = _Pass(asked, plan, report, time.monotonic())
    try:
        done.algebra()
        done.model()
    finally:
        if done.computed:
            refresh_index(lake.storage)
    return done.outcome(lake.index().of("outcomes"))


@dataclass(frozen=True)
class _Intervention:
    """A request made concrete. asked, spare: rows of tables.EXAMPLES and ANSWERS."""

    run: Run
    request: Request
    settings: Settings
    asked: pl.DataFrame
    spare: pl.DataFrame

    @classmethod
    def of(cls, run: Run, request: Request, given: Sequence[str] | None, settings: Settings) -> _Intervention:
        record = run.record
        if not {"blocks", "head_width"} <= {*record.identity["model"]}:
            raise VlmlakeError(f"{run.name} does not say how many blocks its model has: extract again")
        asked, spare = request.examples(run, given)
        return cls(run, request, settings, asked, calibration_examples(spare, getattr(request, "seed", 0)))

    @property
    def answer_tokens(self) -> int:
        return self.settings.answer_tokens or int(self.run.record.identity["generation"]["answer_tokens"])

    @cached_property
    def id(self) -> str:
        """The same request of the same examples and findings has the same id."""
        return f"{self.request.kind}-{fingerprint(json.loads(self.told))[:8]}"

    @cached_property
    def told(self) -> str:
        """The request and what decides its conditions, as JSON."""
        facts = {
            **asdict(self.request),  # type: ignore[call-overload]
            **self.request.facts(self._subject),
            "run": self.run.name,
            "answer_tokens": self.answer_tokens,
            "examples": self.asked.height,
            "examples_sha256": _digest(self.asked),
            "spare_sha256": _digest(self.spare),
        }
        return json.dumps(facts, sort_keys=True)

    @property
    def path(self) -> str:
        return paths.finding("interventions", self.id, self.run.name, "spec")

    @cached_property
    def family(self) -> Family:
        return load_same_model(self.run.record, self.settings.sources)

    @property
    def _subject(self) -> Subject:
        return Subject(self.run, self.asked, self.spare, self.answer_tokens, self._unknown)

    def _unknown(self, place: Place, positions: str, examples: Sequence[str]) -> Activations:
        """In place of activations where only the number of conditions counts."""
        width = self._subject.width(place[0])
        return Activations(np.zeros(width, np.float32), np.zeros(width, np.float32))

    def _measured(self, place: Place, positions: str, examples: Sequence[str]) -> Activations:
        found = of_store(self.run, place, positions, examples)
        if found is None:
            work = self.work(self.spare)
            found = of_model(self.family, work, place, positions)
        return found

    def work(self, rows: pl.DataFrame) -> Work:
        """Batches of these examples for the model."""
        sources = self.settings.sources
        return plan_again(self.run.record, self.family, rows.to_dicts(), sources, dict(self.run.storage.options))

    def _conditions(self, subject: Subject) -> tuple[Condition, ...]:
        return (unchanged(self.answer_tokens), *self.request.conditions(subject))

    def settle(self) -> None:
        """Write the conditions, values and all, unless they are there: the first to do so decides for all workers."""
        if self.run.storage.exists(self.path):
            return
        conditions = self._conditions(replace(self._subject, measure=self._measured))
        rows = [condition.row(self.run.name, self.id, self.told) for condition in conditions]
        self.run.storage.create(self.path, tables.to_parquet(rows, tables.INTERVENTIONS))

    @cached_property
    def conditions(self) -> dict[str, Condition]:
        """By id, each once. Before they are settled without the values that are measured."""
        if not self.run.storage.exists(self.path):
            every = self._conditions(self._subject)
            return {f"{number}": condition for number, condition in enumerate(every)}
        rows = tables.read(self.run.storage, [self.path], tables.INTERVENTIONS).to_pylist()
        return distinct([Condition.of_row(row) for row in rows])

    def plan(self, files: Sequence[str]) -> Plan:
        done = present(self.run, files)[1]
        return plan_routes(self.run, self.conditions, self.asked, done, self.settings.route)


def _digest(rows: pl.DataFrame) -> str:
    return hashlib.sha256("\n".join(sorted(rows["example"])).encode()).hexdigest()


@dataclass
class _Pass:
    """One worker's way through what is missing."""

    asked: _Intervention
    plan: Plan
    report: Callable[[Progress], None]
    began: float
    computed: int = 0

    @cached_property
    def _done(self) -> set[tuple[str, str]]:
        files = open_lake_files(self.asked.run)
        return present(self.asked.run, files)[1]

    @property
    def _names(self) -> dict[int, str]:
        return {id(condition): name for name, condition in self.asked.conditions.items()}

    def _missing(self, name: str, examples: Sequence[str]) -> bool:
        condition = self.asked.conditions[name]
        return any(condition.concerns(one) and (name, one) not in self._done for one in examples)

    def _wanted(self, name: str) -> Callable[[str], bool]:
        condition = self.asked.conditions[name]
        return lambda example: condition.concerns(example) and (name, example) not in self._done

    def algebra(self) -> None:
        """What the store tells by itself, a chunk of rows at a time."""
        names = [self._names[id(one)] for group in self.plan.groups if group.route == ALGEBRA for one in group.conditions]
        if not names:
            return
        rows = self.asked.asked.sort("row", "example")
        places = rows["row"].unique(maintain_order=True).to_list()
        known = {tuple(ids): text for ids, text in zip(rows["token_ids"].to_list(), rows["answer"], strict=True)}
        reader = self._reader(_KnownTexts(self.asked.run, known), _known_ends(self.asked.run))
        for number, first in enumerate(range(0, len(places), algebra.AT_ONCE)):
            chunk = places[first : first + algebra.AT_ONCE]
            there = rows.filter(pl.col("row").is_in(chunk))
            todo = [name for name in names if self._missing(name, there["example"].to_list())]
            if not todo or not self.asked.settings.worker.owns(number):
                continue
            once = there.unique("row", keep="first", maintain_order=True)
            question_of = dict(zip(once["row"], range(once.height), strict=True))
            asked = reader.asked(there, [question_of[row] for row in there["row"]])
            outcomes = Outcomes(reader, self.asked.id)
            conditions = [self.asked.conditions[name] for name in todo]
            found = algebra.answers_from_store(self.asked.run, conditions, once, self.asked.answer_tokens)
            for name, said in zip(todo, found, strict=True):
                ids = [one if one is not None and reader.decode.knows(one) else None for one in said.ids]  # type: ignore[attr-defined]
                outcomes.add(name, ALGEBRA, asked, torch.from_numpy(said.logits), ids, self._wanted(name))
            self._keep(f"algebra-{number:06d}", outcomes)

    def model(self) -> None:
        """What the model has to be run for, batch by batch; what the algebra could not tell among it."""
        groups = [
            replace(group, route=SUFFIX) if group.route == ALGEBRA else group for group in self.plan.groups
        ]
        every = [self._names[id(one)] for group in groups for one in group.conditions]
        ids = self.asked.asked["example"].to_list()
        if not any(self._missing(name, ids) for name in every):
            return
        family, work = self.asked.family, self.asked.work(self.asked.asked)
        masks = self._masks()
        reader = self._reader(_Decoded(family), family.end_tokens)
        rows = {row["example"]: row for row in self.asked.asked.to_dicts()}
        todo = []
        for batch in work.batches:
            there = [work.examples[one].id for index in batch.examples for one in work.items[index].examples]
            names = [name for name in every if self._missing(name, there)]
            if names and self.asked.settings.worker.owns(batch.number):
                todo.append((batch.number, names))
        for (number, names), (batch, asked) in zip(todo, load_ahead(work, family, [one for one, _ in todo]), strict=True):
            examples = [
                (work.examples[one].id, place)
                for place, index in enumerate(batch.examples)
                for one in work.items[index].examples
            ]
            there = pl.DataFrame([rows[example] for example, _ in examples], schema=self.asked.asked.schema)
            batched = _Batched(
                self.asked, work, batch, asked, reader.asked(there, [place for _, place in examples]), masks
            )
            outcomes = Outcomes(reader, self.asked.id)
            for group in groups:
                here = [name for name in (self._names[id(one)] for one in group.conditions) if name in set(names)]
                for name, logits, said in batched.answered(group, here):
                    outcomes.add(name, group.route, batched.told, logits, said, self._wanted(name))
            self._keep(f"{number:06d}-{fingerprint(names)[:8]}", outcomes)

    def _masks(self) -> Mapping[tuple[str, int], Mapping[str, tuple[int, ...]]]:
        request = self.asked.request
        if not isinstance(request, Masking):
            return {}
        return masks_of(self.asked.run, self.asked.asked["example"].to_list(), request)

    def _reader(self, decode: Callable[[tuple[int, ...]], str], ends: frozenset[int]) -> Reader:
        return Reader(self.asked.run.name, Vocabulary.of(self.asked.run.vocabulary), decode, ends)

    def _keep(self, part: str, outcomes: Outcomes) -> None:
        if outcomes.rows:
            storage = self.asked.run.storage
            storage.write(part_path(self.asked.id, self.asked.run.name, part), outcomes.encoded())
            self._done.update((row["condition"], row["example"]) for row in outcomes.rows)
            self.computed += len(outcomes.rows)
        total = self.plan.pairs - self.plan.done
        self.report(Progress(self.asked.run.name, self.computed, total, time.monotonic() - self.began))

    def outcome(self, files: Sequence[str]) -> Outcome:
        asked = self.asked
        rows, done = present(asked.run, files)
        as_is = unchanged(asked.answer_tokens).id
        stored = asked.asked.select("example", pl.col("answer").alias("stored"))
        compared = rows.filter(pl.col("condition") == as_is).join(stored, on="example")
        if asked.answer_tokens != asked.run.record.identity["generation"]["answer_tokens"]:
            compared = compared.clear()
        missing = sum(
            condition.concerns(one) and (name, one) not in done
            for name, condition in asked.conditions.items()
            for one in asked.asked["example"]
        )
        return Outcome(
            asked.id,
            asked.run.name,
            self.plan,
            len(asked.conditions),
            self.computed,
            missing,
            int((compared["answer"] != compared["stored"]).sum()),
            compared.height,
            time.monotonic() - self.began,
        )


@dataclass(frozen=True)
class _Batched:
    """One batch of examples under the conditions of each group."""

    asked: _Intervention
    work: Work
    batch: Batch
    questions: Questions
    told: Asked
    masks: Mapping[tuple[str, int], Mapping[str, tuple[int, ...]]]

    def answered(
        self, group: Group, names: Sequence[str]
    ) -> Iterator[tuple[str, torch.Tensor, Sequence[tuple[int, ...]]]]:
        """Of each condition its name, the logits, [questions, vocab], and the answers."""
        family, limit = self.asked.family, self.asked.answer_tokens
        if group.route == FULL:
            for name in names:
                condition = self.asked.conditions[name]
                questions = self._masked(condition) if condition.kind == MASK else self.questions
                edits, positions = self._edits(condition), _positions([condition])
                found = rerun(family, questions, edits, positions, limit, self.work.shared)
                yield name, found.logits, found.ids
            return
        by_positions: dict[Positions, list[str]] = {}
        for name in names:
            by_positions.setdefault(_positions([self.asked.conditions[name]]), []).append(name)
        if len(by_positions) == 2:
            # What changes nothing goes with either.
            free = [name for name in by_positions["all"] if not self._edits(self.asked.conditions[name])]
            if free == by_positions["all"]:
                by_positions = {"prompt_last": names if isinstance(names, list) else list(names)}
        started = start(family, self.questions, group.block, self.work.shared and group.block > 0) if names else None
        for positions, chosen in by_positions.items():
            assert started is not None
            at_once = self._at_once(group.block)
            for first in range(0, len(chosen), at_once):
                part = chosen[first : first + at_once]
                edits = [self._edits(self.asked.conditions[name]) for name in part]
                said = answer(started, edits, positions, limit)
                yield from zip(part, said.logits, said.ids, strict=True)

    def _edits(self, condition: Condition) -> tuple[Edit, ...]:
        if condition.kind != PATCH:
            return condition.edits
        examples = [self._asker(condition, index) for index in self.batch.examples]
        return (donated(self.asked.run, condition, examples),)

    def _asker(self, condition: Condition, index: int) -> str:
        """Of the examples that ask a question the one that the condition concerns, or any."""
        ids = [self.work.examples[one].id for one in self.work.items[index].examples]
        return next((one for one in ids if condition.concerns(one)), ids[0])

    def _masked(self, condition: Condition) -> Questions:
        patches = self.masks[condition.set, condition.member]
        items = [self.work.items[index] for index in self.batch.examples]
        covered = [patches[self.work.examples[item.examples[0]].id] for item in items]
        return masked_questions(self.asked.family, items, self.questions, covered, self.work.shared)

    def _at_once(self, block: int) -> int:
        """Conditions in one stack."""
        family, prompts = self.asked.family, self.questions.prompts
        decoder = family.decoder
        tokens = max(prompt.suffix_length for prompt in prompts) + 1
        prefix = max(prompt.split for prompt in prompts)
        after = len(family.blocks) - block
        size = next(family.model.parameters()).element_size()
        cached = 2 * after * (tokens + prefix) * family.heads_width
        working = NUMBERS_A_TOKEN * decoder.hidden * max(tokens, prefix / max(1, len(prompts) // len(self.questions.images)))
        row = size * (cached + working) + 4 * decoder.vocab
        memory = MEMORY.get(family.device.type, MEMORY["cpu"])
        return max(1, int(memory // (row * len(prompts))))


def _positions(conditions: Sequence[Condition]) -> Positions:
    return "prompt_last" if any(one.positions == PROMPT_LAST for one in conditions) else "all"


def _known_ends(run: Run) -> frozenset[int]:
    told = run.examples().filter(pl.col("finish") == "stop")["token_ids"]
    return frozenset(told.list.last().to_list())


def open_lake_files(run: Run) -> Sequence[str]:
    """Paths of the tables of outcomes in a run's lake, as they are now."""
    from vlmlake.store_schema.index import listed_index

    return listed_index(run.storage).of("outcomes")


class _Decoded:
    """The text of an answer, by the model's tokenizer."""

    def __init__(self, family: Family) -> None:
        self._tokenizer = family.tokenizer
        self._known: dict[tuple[int, ...], str] = {}

    def __call__(self, ids: tuple[int, ...]) -> str:
        if ids not in self._known:
            self._known[ids] = self._tokenizer.decode(ids, skip_special_tokens=True)
        return self._known[ids]


class _KnownTexts:
    """The text of an answer without a tokenizer: of those that the run has, and of any single token."""

    def __init__(self, run: Run, known: Mapping[tuple[int, ...], str]) -> None:
        self._known = dict(known)
        self._vocabulary, self._ends = run.vocabulary, _known_ends(run)

    def knows(self, ids: tuple[int, ...]) -> bool:
        """Whether it does."""
        return ids in self._known or len(self._words(ids)) <= 1

    def __call__(self, ids: tuple[int, ...]) -> str:
        if ids in self._known:
            return self._known[ids]
        return "".join(self._vocabulary[token] for token in self._words(ids))

    def _words(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(token for token in ids if token not in self._ends)


__all__ = ["ALL", "Outcome", "Progress", "Settings", "intervene", "plan_intervention"]
