"""Activation patching: between a right and a wrong answer about the same image, what one's token that predicts the
answer holds at a layer is put in the place of the other's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import polars as pl

from vlmlake.answers.rules import DEFAULT_RULE, correctness, require_rule
from vlmlake.errors import NotKeptError, VlmlakeError
from vlmlake.ingest.interventions.edited.edits import ATTN_OUT, MLP_OUT, RESID, Edit
from vlmlake.ingest.interventions.requests.conditions import (
    DONOR,
    PATCH,
    Condition,
    block_number,
)
from vlmlake.ingest.interventions.requests.subject import Request, Subject, chosen_examples
from vlmlake.store_schema.run import Run
from vlmlake.store_schema.schema import EMBED, PROMPT_LAST

INTO_RIGHT, INTO_WRONG = "into_right", "into_wrong"
ARRAYS = {RESID: "readout_states", MLP_OUT: "mlp_write", ATTN_OUT: "attn_write"}
"""Where the store has a site's activations at prompt_last."""


@dataclass(frozen=True)
class Patching(Request):
    """Patch activations between pairs of examples that ask about one image, one right and one wrong, whose answers
    differ: each question is in one pair at most.

    site: resid, mlp_out or attn_out. layers: blocks by label, all that the run keeps unless given. rule: the label rule
    that tells right from wrong. The donor's activations are those that the run stored.

    Method: activation patching (Vig et al. 2020; Meng et al. 2022, causal tracing), at prompt_last.
    """

    kind: ClassVar[str] = PATCH

    site: str = RESID
    layers: tuple[str, ...] = ()
    rule: str = DEFAULT_RULE

    def __post_init__(self) -> None:
        require_rule(self.rule)
        if self.site not in ARRAYS:
            raise VlmlakeError(f"site is {self.site}, expected one of {', '.join(ARRAYS)}")
        for layer in self.layers:
            block_number(layer)

    def examples(self, run: Run, given: Sequence[str] | None) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Those in a pair, of all or of those given.

        Raises VlmlakeError if there is no pair.
        """
        rows = chosen_examples(run, given)
        pairs = pairs_of(rows, self.rule)
        if not pairs:
            raise VlmlakeError(
                f"{run.name} has no image with a right and a wrong answer that differ under the rule {self.rule}: "
                "there is nothing to patch between"
            )
        both = {example for pair in pairs for example in pair}
        return rows.filter(pl.col("example").is_in(both)), rows.clear()

    def conditions(self, subject: Subject) -> tuple[Condition, ...]:
        """For each layer one that patches into right answers, and one into wrong ones."""
        kept = [label for label in subject.run.record.layers if label != EMBED]
        if ARRAYS[self.site] not in subject.run.record.arrays:
            raise NotKeptError(
                f"run {subject.run.name} keeps no {ARRAYS[self.site]}: run `vlmlake extract` with a plan that has it"
            )
        for layer in self.layers:
            if layer not in kept:
                raise VlmlakeError(f"{subject.run.name} keeps no layer {layer}: there are {', '.join(kept)}")
        pairs = pairs_of(subject.examples, self.rule)
        ways = {INTO_RIGHT: dict(pairs), INTO_WRONG: {wrong: right for right, wrong in pairs}}
        return tuple(
            Condition(
                PATCH,
                way,
                subject.answer_tokens,
                rule=self.rule,
                site=self.site,
                layer=layer,
                mode=DONOR,
                positions=PROMPT_LAST,
                pairs=donors,
            )
            for layer in (self.layers or kept)
            for way, donors in ways.items()
        )


def pairs_of(rows: pl.DataFrame, rule: str) -> list[tuple[str, str]]:
    """Ids of examples with a right and with a wrong answer about one image, the answers not the same; the first right
    with the first wrong, the second with the second. Questions that several examples ask count once.
    """
    once = rows.unique("row", keep="first", maintain_order=True).sort("row", "example")
    judged = once.with_columns(pl.Series("correct", correctness(once["answer"], once["gold"], rule)))
    pairs = []
    for _, image in judged.group_by("image_sha256", maintain_order=True):
        right, wrong = (image.filter(pl.col("correct") == value) for value in (1.0, 0.0))
        left = list(zip(wrong["example"], wrong["answer"], strict=True))
        for example, answer in zip(right["example"], right["answer"], strict=True):
            other = next((one for one in left if one[1] != answer), None)
            if other is not None:
                left.remove(other)
                pairs.append((example, other[0]))
    return pairs


def donated(run: Run, condition: Condition, examples: Sequence[str]) -> Edit:
    """What a patch sets for these examples: at NaN, in those it does not concern, nothing is set."""
    assert condition.site is not None
    assert condition.layer is not None
    donors = {example: condition.pairs[example] for example in examples if example in condition.pairs}
    values = np.full((len(examples), run.record.extents.hidden), np.nan, np.float32)
    if donors:
        stored = run.dataset()[ARRAYS[condition.site]].sel(layer=condition.layer)
        if "position" in stored.dims:
            stored = stored.sel(position=PROMPT_LAST)
        places = [place for place, example in enumerate(examples) if example in donors]
        values[places] = stored.sel(example=[donors[examples[place]] for place in places]).values
    return Edit(condition.site, block_number(condition.layer), np.arange(values.shape[1]), values)
