"""The plan: which way each condition is answered, and what it costs beside running the whole model again for each."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
import polars as pl

from vlmlake.errors import VlmlakeError
from vlmlake.ingest.families import FAMILIES
from vlmlake.ingest.interventions import algebra
from vlmlake.ingest.interventions.edited.edits import AFTER_BLOCK, MLP_OUT
from vlmlake.ingest.interventions.edited.stored_start import keeps_streams
from vlmlake.ingest.interventions.requests.conditions import MASK, NONE, PATCH, Condition, block_number
from vlmlake.store_schema.batches import Batch, Lengths, plan_batches
from vlmlake.store_schema.run import Run
from vlmlake.store_schema.schema import PROMPT_LAST

ALGEBRA, SUFFIX, FULL = "algebra", "suffix", "full"
CHEAPEST = "auto"
ROUTES = (CHEAPEST, ALGEBRA, SUFFIX, FULL)

Pairs = AbstractSet[tuple[str, str]]
"""Ids of conditions and examples."""


@dataclass(frozen=True)
class Group:
    """Conditions that are answered together.

    block: the first that runs under each of them, for `suffix`; its number is the last's and one where none does.
    pairs: of conditions and examples that are missing. evaluations: one block run over one token, so often; plain: as
    often if the whole model ran again for each condition, prefixes shared. stored: the block is entered with the
    store's residual streams.
    """

    route: str
    block: int
    conditions: tuple[Condition, ...]
    pairs: int
    evaluations: int
    plain: int
    stored: bool = False


@dataclass(frozen=True)
class Plan:
    """groups: what is to be done. examples: how many are asked about. conditions: how many there are. done: pairs of
    conditions and examples whose outcomes are there, of `pairs` in all. blocks: of the model.
    """

    groups: tuple[Group, ...]
    examples: int
    conditions: int
    pairs: int
    done: int
    blocks: int

    @property
    def evaluations(self) -> int:
        return sum(group.evaluations for group in self.groups)

    @property
    def plain(self) -> int:
        return sum(group.plain for group in self.groups)

    @property
    def needs_model(self) -> bool:
        """Whether anything is to be done that the store cannot tell by itself."""
        return any(group.route != ALGEBRA for group in self.groups)


def require_route(route: str) -> None:
    """Raises VlmlakeError for one that is not known."""
    if route not in ROUTES:
        raise VlmlakeError(f"route is {route}, expected one of {', '.join(ROUTES)}")


def first_block(condition: Condition, blocks: int) -> int:
    """The first block that runs otherwise under a condition that edits the model; `blocks` where none does."""
    if condition.kind == PATCH:
        assert condition.layer is not None
        return block_number(condition.layer) + (condition.site in AFTER_BLOCK)
    return min([blocks, *(edit.first_block for edit in condition.edits)])


def plan_routes(
    run: Run, conditions: Sequence[Condition], examples: pl.DataFrame, done: Pairs, route: str = CHEAPEST
) -> Plan:
    """The cheapest exact route of each condition, or the one that is asked for.

    `algebra` where the store lost nothing, else `suffix`; `full` for edits of the image. examples: rows of
    tables.EXAMPLES and ANSWERS. done: pairs whose outcomes are there.

    Raises VlmlakeError for an unknown route, or one that a condition cannot take.
    """
    require_route(route)
    blocks = int(run.record.identity["model"]["blocks"])
    ids = examples["example"].to_list()
    members: dict[tuple[str, int], list[tuple[Condition, int]]] = {}
    pairs = left = 0
    for condition in sorted(conditions, key=lambda one: one.kind == NONE):
        wanted = [one for one in ids if condition.concerns(one)]
        missing = sum((condition.id, one) not in done for one in wanted)
        pairs, left = pairs + len(wanted), left + missing
        if missing:
            members.setdefault(_way(run, condition, blocks, route), []).append((condition, missing))
    _settle_unchanged(members)
    cost = _Cost.of(run, examples, blocks)
    groups = []
    for (way, block), there in sorted(members.items(), key=lambda item: item[0]):
        chosen = tuple(condition for condition, _ in there)
        stored = way == SUFFIX and route == CHEAPEST and _can_enter(run, block, chosen)
        evaluations, plain = cost.told(way, block, chosen, stored)
        if route == CHEAPEST and way == SUFFIX and evaluations > plain:
            way, block, stored, evaluations = FULL, 0, False, plain
        groups.append(Group(way, block, chosen, sum(number for _, number in there), evaluations, plain, stored))
    return Plan(tuple(groups), len(ids), len(conditions), pairs, pairs - left, blocks)


def _way(run: Run, condition: Condition, blocks: int, route: str) -> tuple[str, int]:
    if condition.kind == MASK:
        if route in (ALGEBRA, SUFFIX):
            raise VlmlakeError(f"an image that changes takes the route {FULL}: {route} cannot tell what it does")
        return FULL, 0
    if route == FULL:
        return FULL, 0
    there = algebra.is_possible(run, condition)
    exact = algebra.is_exact(run)
    if route == ALGEBRA and not (there and exact):
        raise VlmlakeError(
            f"the set {condition.set} of {condition.kind} cannot take the route {ALGEBRA}: it needs an edit of what "
            "the last block leaves, and a run of a float32 model that keeps readout_states (and mlp_write) there in "
            "float32"
        )
    if there and exact and (route == ALGEBRA or (route == CHEAPEST and algebra.goes_on(condition))):
        return ALGEBRA, blocks
    return SUFFIX, first_block(condition, blocks)


def _can_enter(run: Run, block: int, conditions: Sequence[Condition]) -> bool:
    """Whether what was stored is as good as what the blocks before would compute, for answers of one token. What an MLP
    wrote at every token is not stored.
    """
    if not keeps_streams(run, block) or block == run.record.identity["model"]["blocks"]:
        return False
    sites = {edit.site for condition in conditions for edit in condition.edits if edit.first_block == block}
    sites |= {str(condition.site) for condition in conditions if condition.kind == PATCH}
    return MLP_OUT not in sites and all(condition.answer_tokens == 1 for condition in conditions)


def _settle_unchanged(members: dict[tuple[str, int], list[tuple[Condition, int]]]) -> None:
    """The model as it is goes along with conditions that are run anyway."""
    for way, there in list(members.items()):
        others = [other for other in members if other[0] == SUFFIX and other != way]
        if way[0] == SUFFIX and others and [condition.kind for condition, _ in there] == [NONE]:
            members[max(others, key=lambda other: other[1])] += members.pop(way)


@dataclass(frozen=True)
class _Cost:
    """Of one pass over the examples, per block. prompt: tokens of prompts, padding included, prefixes once per image
    where the run did so; unshared: a prefix for each question. last: questions. said: tokens after an answer's first,
    if answers are as long as the stored ones. causal: whether no token of a prompt sees the last.
    """

    blocks: int
    prompt: int
    unshared: int
    last: int
    said: int
    causal: bool

    @classmethod
    def of(cls, run: Run, examples: pl.DataFrame, blocks: int) -> _Cost:
        rows = examples.unique("row", keep="first", maintain_order=True)
        lengths = _lengths(rows)
        prompt = unshared = 0
        for batch in batches_of(run, rows):
            prefix, suffix = _widths(batch, lengths)
            questions = len(batch.examples)
            prompt += prefix * len(batch.prefixes) + suffix * questions
            unshared += (prefix + suffix) * questions
        said = int(np.sum(rows["token_ids"].list.len().to_numpy().astype(np.int64) - 1))
        causal = not FAMILIES[run.record.identity["model"]["type"]].image_sees_question
        return cls(blocks, prompt, unshared, rows.height, said, causal)

    def told(self, way: str, block: int, conditions: Sequence[Condition], stored: bool) -> tuple[int, int]:
        """Evaluations of this route and of plain reruns. stored: the blocks before do not run."""
        answered = [self.said if condition.answer_tokens > 1 else 0 for condition in conditions]
        pairs = list(zip(conditions, answered, strict=True))
        plain = sum(self.blocks * (self._prompt_of(condition) + said) for condition, said in pairs)
        if way == ALGEBRA:
            return 0, plain
        if way == FULL:
            return plain, plain
        prompt = self.prompt if block > 0 else self.unshared
        once = 0 if stored else block * (prompt + max(answered))
        after = self.blocks - block
        # The others run once for all conditions, the model as it is among them.
        alone = self.causal and any(condition.positions == PROMPT_LAST for condition in conditions)
        once += after * (prompt - self.last if alone else 0)
        return once + sum(after * (said + (self.last if alone else prompt)) for said in answered), plain

    def _prompt_of(self, condition: Condition) -> int:
        """What is covered differs from question to question, unless it is drawn."""
        own = condition.kind == MASK and condition.set != "random"
        return self.unshared if own else self.prompt


def batches_of(run: Run, rows: pl.DataFrame) -> tuple[Batch, ...]:
    """The batches in which these rows of tables.EXAMPLES, each of another row of the arrays, go through the model."""
    plan = run.record.identity["plan"]
    keys = rows["image_sha256"] if plan["shared_prefix"] else rows["image_sha256"] + "\n" + rows["question"]
    return plan_batches(keys.to_list(), plan["batch_size"], _lengths(rows))


def _lengths(rows: pl.DataFrame) -> list[Lengths]:
    return [Lengths(*pair) for pair in rows.select("prefix_tokens", "suffix_tokens").iter_rows()]


def _widths(batch: Batch, lengths: Sequence[Lengths]) -> tuple[int, int]:
    rows = [lengths[index] for index in batch.examples]
    return max(row.prefix for row in rows), max(row.suffix for row in rows)
