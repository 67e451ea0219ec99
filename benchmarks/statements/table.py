"""A row of the printed table: way, seconds, bytes, requests, what it is compared with, target."""

from __future__ import annotations

from dataclasses import dataclass

from stores.counts import Cost

HEADINGS = ("s", "MB", "requests", "compared")


@dataclass(frozen=True)
class Row:
    """seconds, bytes, requests: in words, as is `compared`. passed: none where there is no target."""

    part: str
    way: str
    seconds: str = ""
    bytes: str = ""
    requests: str = ""
    compared: str = ""
    target: str = ""
    passed: bool | None = None

    @property
    def cells(self) -> tuple[str, ...]:
        """What stands below HEADINGS."""
        return self.seconds, self.bytes, self.requests, self.compared


def show(part: str, way: str, cost: Cost, compared: str = "", target: str = "", passed: bool | None = None) -> Row:
    """A row of what was measured."""
    cells = f"{cost.seconds:.3f}", f"{cost.bytes / 1e6:,.1f}", f"{cost.requests:,}"
    return Row(part, way, *cells, compared, target, passed)
