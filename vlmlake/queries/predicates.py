"""What of a condition can be decided by the keys of rows alone, before any value is read."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import polars as pl


@dataclass(frozen=True)
class KeyConditions:
    """Parts of a condition, all of which hold of a row if the condition does, each with the keys that it names."""

    parts: tuple[tuple[pl.Expr, frozenset[str]], ...] = ()

    @classmethod
    def of(cls, predicate: pl.Expr | None, keys: Collection[str]) -> KeyConditions:
        """Those parts of a conjunction that name no column but keys."""
        found = (
            [] if predicate is None else [(part, frozenset(part.meta.root_names())) for part in conjuncts(predicate)]
        )
        return cls(tuple((part, names) for part, names in found if names <= set(keys)))

    @property
    def names(self) -> frozenset[str]:
        """Every key that is named."""
        return frozenset().union(*(names for _, names in self.parts))

    def keep(self, rows: pl.DataFrame, new: Collection[str]) -> pl.DataFrame:
        """The rows that may be asked for. new: columns that no earlier `keep` has seen; parts that name none of them
        have been applied, but for those that name nothing.
        """
        here = set(rows.columns)
        fit = [part for part, names in self.parts if names <= here and (names & set(new) or not names)]
        return rows.filter(*fit) if fit else rows


def conjuncts(predicate: pl.Expr) -> Iterator[pl.Expr]:
    """The parts of `a & b & c`; of anything else itself."""
    operands = predicate.meta.pop()
    if len(operands) == 2:
        for left, right in (operands, operands[::-1]):
            if (left & right).meta.eq(predicate):
                yield from conjuncts(left)
                yield from conjuncts(right)
                return
    yield predicate
