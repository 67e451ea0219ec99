"""What the scans of a statement select, what that costs to fetch, and where it is too much."""

from __future__ import annotations

from dataclasses import dataclass, field

from vlmlake.errors import VlmlakeError
from vlmlake.store_schema.sizes import size_in_words

LIMIT = 2 * 2**30
"""Bytes that a statement may fetch of arrays unless it is said otherwise."""


NARROW = (
    "compare run, example, layer, head, position, token or role with constants, as in layer = 'block_20' or "
    "(run, example) in (...), which a LIMIT does not do"
)


class TooMuchError(VlmlakeError):
    """A statement would fetch more than its limit; nothing was fetched."""


@dataclass(frozen=True)
class ScanFacts:
    """One scan of a relation. rows: whose values it reads, before conditions on values; chunks: of the arrays' chunks
    that it decodes, of chunks_there that the visible batches have room for; bytes: encoded; requests: for them, and for
    indexes of shards that were not known yet.
    """

    relation: str
    rows: int
    chunks: int
    chunks_there: int
    bytes: int
    requests: int


@dataclass
class Meter:
    """Shared by the scans of one connection. limit: bytes, none for no limit. reads: whether scans read at all; one
    that does not only says what it would, and has no rows. together: whether the limit is on all scans since `begin`,
    in place of each by itself. refusal: the error that ended a scan, which DuckDB tells in other words.
    """

    limit: int | None = LIMIT
    reads: bool = True
    together: bool = False
    scans: list[ScanFacts] = field(default_factory=list)
    refusal: VlmlakeError | None = None

    def begin(self, reads: bool = True) -> None:
        """Forget what was."""
        self.scans.clear()
        self.refusal = None
        self.reads, self.together = reads, True

    @property
    def most(self) -> int | None:
        """Bytes beyond which no scan needs to count exactly."""
        return self.limit if self.reads else None

    def admit(self, facts: ScanFacts) -> None:
        """Note a scan. Raises TooMuchError if it, or all since `begin`, are beyond the limit."""
        if not self.together:
            self.scans.clear()
        self.scans.append(facts)
        total = sum(scan.bytes for scan in self.scans)
        if self.most is not None and total > self.most:
            told = ", ".join(f"{size_in_words(scan.bytes)} of {scan.relation}" for scan in self.scans if scan.bytes)
            raise TooMuchError(
                f"this would fetch about {told}, the limit is {size_in_words(self.most)}: {NARROW}, or give another "
                "limit (--limit, limit=; none lifts it)"
            )
