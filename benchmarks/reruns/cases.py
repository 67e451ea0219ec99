"""What is ablated, and the rows that come of asking by our routes and by one whole rerun for each condition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from reruns.asking import Answered, Asker, Difference
from reruns.table import Row, millions
from vlmlake.ingest.interventions.requests.ablation import CONTROL, Ablation
from vlmlake.ingest.interventions.routes import ALGEBRA, CHEAPEST, FULL, SUFFIX

SIZES = (1, 2, 5, 10, 20, 50)
CONTROLS = 20
"""Drawn for each size; of one or two neurons some are drawn twice, and asked once."""
ABLATION = Ablation("d_act", bottom=False, top=SIZES, controls=CONTROLS, null_layer="")
MEASURED = {"top": (SIZES[0], SIZES[-1]), "controls": 1}
"""What of an ablation is measured by whole reruns: 4 conditions, and the model as it is."""
SAME = 1e-4
"""The target for first-token logits, in float32."""

Part = tuple[list[Row], str]
"""Rows of the table, and what must be known about them."""


@dataclass(frozen=True)
class Case:
    """One ablation. route: that of ours. fewer, faster: targets of evaluations and time, none where they are not
    judged.
    """

    part: str
    what: str
    ablation: Ablation
    route: str = CHEAPEST
    fewer: float | None = None
    faster: float | None = None

    def rows(self, asker: Asker, rounds: int, exact: bool) -> Part:
        """exact: whether the model computes in float32, where alone the routes must agree."""
        few = replace(self.ablation, **MEASURED)
        ours, plain = best(rounds, lambda: asker.answered(self.ablation, self.route), lambda: asker.answered(few, FULL))
        number, measured = ours.plan.conditions, plain.plan.conditions
        evaluations, seconds = (one * number / measured for one in (plain.asking.evaluations, plain.asking.seconds))
        blocks = ours.plan.blocks
        run = f"{blocks - min(group.block for group in ours.plan.groups)} of {blocks}"
        rows = [
            Row(
                f"{self.part}a",
                f"{self.what}: {number} whole reruns",
                f"{blocks} of {blocks}",
                millions(evaluations),
                f"{seconds:.1f}",
            ),
            self._fewer("b", "ours, by the plan", run, ours.plan.evaluations, ours.plan.plain),
            self._fewer("c", "ours, counted", run, ours.evaluations, evaluations),
            Row(
                f"{self.part}d",
                "ours, timed",
                run,
                seconds=f"{ours.seconds:.1f}",
                compared=f"{seconds / ours.seconds:.1f} x faster than a",
                target="" if self.faster is None else f">= {self.faster:g} x",
                passed=None if self.faster is None else seconds / ours.seconds >= self.faster,
            ),
            *same(self.part, "ef", Difference.between(ours.outcomes, plain.outcomes), exact),
        ]
        controls = sum(one.set == CONTROL for group in ours.plan.groups for one in group.conditions)
        means = f"{millions(ours.settling.evaluations)} and {ours.settling.seconds:.1f} s"
        return rows, (
            f"{self.part}: {controls} control sets; a: {measured} conditions took {plain.asking.seconds:.1f} s; the "
            f"means are {means} of c and d."
        )

    def _fewer(self, letter: str, way: str, run: str, ours: int, plain: float) -> Row:
        return Row(
            f"{self.part}{letter}",
            way,
            run,
            millions(ours),
            compared=f"{plain / ours:.1f} x fewer than a",
            target="" if self.fewer is None else f">= {self.fewer:g} x",
            passed=None if self.fewer is None else plain / ours >= self.fewer,
        )


def cases() -> list[Case]:
    at_28 = replace(ABLATION, layer="block_28", site="mlp_out")
    at_31 = replace(ABLATION, layer="block_31", site="mlp_out")
    alone = replace(at_28, positions="prompt_last")
    return [
        Case("1", "mlp_out of block 28", at_28, fewer=6, faster=5),
        Case("2", "attn_out of block 28", replace(at_28, site="attn_out"), fewer=6, faster=5),
        # By the cheapest route the store would tell the first tokens, and the model be run for the others.
        Case("3", "mlp_out of block 31", at_31, SUFFIX, fewer=20),
        Case("4", "attn_out of block 31", replace(at_31, site="attn_out"), fewer=20),
        Case("5", "mlp_out of block 28 at prompt_last", alone),
    ]


def algebra(asker: Asker, rounds: int, exact: bool) -> Part:
    """First tokens out of the store, beside the same by the model's last norm and unembedding."""
    asked = replace(ABLATION, layer="block_31", site="resid", positions="prompt_last")
    stored, suffix = best(rounds, lambda: asker.answered(asked, ALGEBRA, 1), lambda: asker.answered(asked, SUFFIX, 1))
    rows = [
        Row(
            "6a",
            f"resid of block 31 at prompt_last: {suffix.plan.conditions} by suffix",
            f"0 of {suffix.plan.blocks}",
            millions(suffix.evaluations),
            f"{suffix.seconds:.2f}",
            _rate(suffix),
        ),
        Row(
            "6b",
            "the same by algebra, from the store alone",
            "none",
            millions(stored.evaluations),
            f"{stored.seconds:.2f}",
            f"{_rate(stored)}, {suffix.seconds / stored.seconds:.1f} x a",
        ),
        *same("6", "cd", Difference.between(stored.outcomes, suffix.outcomes), exact),
    ]
    return rows, "6: answers of one token, read from a store in float32."


def same(part: str, letters: str, found: Difference, exact: bool) -> list[Row]:
    """What the outcomes that two ways have in common differ by."""
    return [
        Row(
            f"{part}{letters[0]}",
            "the same first-token logits",
            compared=f"differ by {found.largest:.1e}",
            target=f"<= {SAME:g}" if exact else "",
            passed=found.largest <= SAME if exact else None,
        ),
        Row(
            f"{part}{letters[1]}",
            "the same answers",
            compared=f"{found.answers} of {found.pairs:,} differ",
            target="0" if exact else "",
            passed=found.answers == 0 if exact else None,
        ),
    ]


def best(rounds: int, ours: Callable[[], Answered], other: Callable[[], Answered]) -> tuple[Answered, Answered]:
    """Of each the fastest, forwards and backwards in turn, so that a drifting machine favours neither."""
    found: dict[Callable[[], Answered], list[Answered]] = {ours: [], other: []}
    for number in range(rounds):
        for way in (ours, other) if number % 2 == 0 else (other, ours):
            found[way].append(way())
    first, second = (min(found[way], key=lambda answered: answered.seconds) for way in (ours, other))
    return first, second


def _rate(found: Answered) -> str:
    """A pair of a condition and an example is one."""
    return f"{found.plan.pairs / found.seconds:,.0f} examples/s"
