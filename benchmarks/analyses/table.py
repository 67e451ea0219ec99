"""A row of the printed table: way, seconds, memory, what it is compared with, target."""

from __future__ import annotations

from dataclasses import dataclass

from analyses.process import Outcome

HEADINGS = ("s", "peak, GB", "compared")


@dataclass(frozen=True)
class Row:
    """seconds, peak: in words, as is `compared`. passed: none where there is no target."""

    part: str
    way: str
    seconds: str = ""
    peak: str = ""
    compared: str = ""
    target: str = ""
    passed: bool | None = None

    @property
    def cells(self) -> tuple[str, ...]:
        """What stands below HEADINGS."""
        return self.seconds, self.peak, self.compared


def show(part: str, way: str, found: Outcome, compared: str = "", target: str = "", passed: bool | None = None) -> Row:
    """A row of what was measured."""
    return Row(part, way, f"{found.seconds:.1f}", f"{found.peak / 1e9:.2f}", compared, target, passed)
