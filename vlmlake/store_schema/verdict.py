"""What `verify` says of a lake: how much was looked at, and what is wrong."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vlmlake.store_schema.sizes import size_in_words


@dataclass(frozen=True)
class Problem:
    """Something that is not as it should be. run: none for what all runs share; batch, array: none where it concerns no
    single one.
    """

    run: str | None
    batch: int | None
    array: str | None
    what: str

    def __str__(self) -> str:
        batch = None if self.batch is None else f"batch {self.batch}"
        return ": ".join([" ".join(filter(None, (self.run or "lake", batch, self.array))), self.what])


@dataclass(frozen=True)
class Looked:
    """How much was looked at. bytes: of shards; examples: rows of the tables."""

    batches: int = 0
    shards: int = 0
    chunks: int = 0
    bytes: int = 0
    examples: int = 0

    def __add__(self, other: Looked) -> Looked:
        return Looked(
            self.batches + other.batches,
            self.shards + other.shards,
            self.chunks + other.chunks,
            self.bytes + other.bytes,
            self.examples + other.examples,
        )

    def __str__(self) -> str:
        return f"{self.batches} batches, {self.shards} shards, {size_in_words(self.bytes)}"


@dataclass(frozen=True)
class Verdict:
    """On one run; with run none, on what all runs share: the index, and results of runs that are gone."""

    run: str | None
    looked: Looked = Looked()
    problems: tuple[Problem, ...] = ()

    @property
    def broken(self) -> tuple[int, ...]:
        """Numbers of the batches with problems, ascending."""
        return tuple(sorted({problem.batch for problem in self.problems if problem.batch is not None}))


def is_sound(verdicts: Iterable[Verdict]) -> bool:
    """Whether something was looked at, and nothing is wrong; of a lake without a batch nobody can say so."""
    verdicts = list(verdicts)
    return any(one.looked.batches for one in verdicts) and not any(one.problems for one in verdicts)
