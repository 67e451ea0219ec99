"""What a masking study is asked for: how much of an image is covered, and which sets of patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, cast, get_args

from vlmlake.errors import NotKeptError, UnknownNameError, VlmlakeError
from vlmlake.ingest.interventions.requests.conditions import GRAY, MASK, Condition
from vlmlake.ingest.interventions.requests.subject import Request, Subject
from vlmlake.store_schema.run import Run
from vlmlake.store_schema.schema import EMBED

HIGH, LOW, RANDOM = "high", "low", "random"
SETS = (HIGH, LOW, RANDOM)
"""The patches that get most attention, those that get least, and seeded draws."""

RANDOM_MEMBERS = 20

Reduction = Literal["mean", "max"]
"""How the heads of a layer become one map."""


@dataclass(frozen=True)
class MaskSet:
    """A kind of set. name: of SETS. members: how many there are of it, which differ by chance."""

    name: str
    members: int = 1

    def __post_init__(self) -> None:
        if self.name not in SETS:
            raise VlmlakeError(f"unknown set of patches {self.name!r}, expected some of {', '.join(SETS)}")
        if self.name == RANDOM and self.members < 1:
            raise VlmlakeError(f"{self.members} random sets of patches, expected at least 1")
        if self.name != RANDOM and self.members != 1:
            raise VlmlakeError(f"{self.members} sets of patches {self.name}: there is one, only {RANDOM} has several")


DEFAULT_SETS = (MaskSet(HIGH), MaskSet(LOW), MaskSet(RANDOM, RANDOM_MEMBERS))


@dataclass(frozen=True)
class Masking(Request):
    """The request.

    share: of an image's patches that are covered, above 0 and at most 1; their number is rounded down. sets: each once.
    layer: whose attention ranks the patches, a label as `block_31`; None for the last that the run keeps. reduction: of
    its heads. seed: of the random sets.
    """

    kind: ClassVar[str] = MASK

    share: float = 0.3
    sets: tuple[MaskSet, ...] = DEFAULT_SETS
    layer: str | None = None
    reduction: Reduction = "mean"
    seed: int = 0

    def __post_init__(self) -> None:
        require_share(self.share)
        require_reduction(self.reduction)
        names = [one.name for one in self.sets]
        if not names or len(set(names)) != len(names):
            raise VlmlakeError(f"sets of patches are {', '.join(names) or 'none'}: expected at least one, each once")

    def conditions(self, subject: Subject) -> tuple[Condition, ...]:
        """One for each set and member."""
        layer = attention_layer(subject.run, self.layer) if self.ranks else None
        return tuple(
            Condition(
                MASK,
                one.name,
                subject.answer_tokens,
                member=member,
                layer=None if one.name == RANDOM else layer,
                mode=GRAY,
                share=self.share,
                seed=self.seed if one.name == RANDOM else None,
                reduction=None if one.name == RANDOM else self.reduction,
            )
            for one in self.sets
            for member in range(one.members)
        )

    @property
    def ranks(self) -> bool:
        """Whether patches are ranked by attention, so that the store must have it."""
        return any(one.name != RANDOM for one in self.sets)


def parse_sets(text: str) -> tuple[MaskSet, ...]:
    """Sets as they are typed, between commas: `high,low,random:20`; `random` alone has RANDOM_MEMBERS.

    Raises VlmlakeError for an unknown name, or what is no number of sets.
    """
    return tuple(_parsed(part.strip()) for part in text.split(","))


def _parsed(part: str) -> MaskSet:
    name, colon, count = part.partition(":")
    if not colon:
        return MaskSet(name, RANDOM_MEMBERS if name == RANDOM else 1)
    if not (count.isascii() and count.isdigit()):
        raise VlmlakeError(f"{part!r} does not say how many sets of patches: expected a number, as in {RANDOM}:20")
    return MaskSet(name, int(count))


def attention_layer(run: Run, asked: str | None) -> str:
    """The label of the layer whose attention is read: the last that the run keeps where none is asked for.

    Raises NotKeptError if the run keeps no attention, UnknownNameError for a layer that it does not have.
    """
    if not {"attention", "readout_attention"} & {*run.record.arrays}:
        raise NotKeptError(
            f"run {run.name} keeps no attention and no readout_attention: run `vlmlake extract` with a plan that has it"
        )
    there = [label for label in run.record.layers if label != EMBED]
    if asked is None:
        return there[-1]
    if asked not in there:
        raise UnknownNameError(f"run {run.name} keeps no attention at layer {asked}; there are {', '.join(there)}")
    return asked


def require_share(share: float) -> None:
    """Raises VlmlakeError for a share of the patches that is none or more than all."""
    if not 0 < share <= 1:
        raise VlmlakeError(f"the share of the patches is {share}, expected above 0 and at most 1")


def require_reduction(reduction: str) -> Reduction:
    """The reduction of this name. Raises VlmlakeError for one that is not known."""
    if reduction not in get_args(Reduction):
        raise VlmlakeError(f"the reduction of the heads is {reduction!r}, expected {' or '.join(get_args(Reduction))}")
    return cast(Reduction, reduction)
