"""A row of the printed table: way, blocks, evaluations, seconds, what it is compared with, target."""

from __future__ import annotations

from dataclasses import dataclass

HEADINGS = ("blocks", "evaluations", "s", "compared")


@dataclass(frozen=True)
class Row:
    """blocks: how many run under each condition. evaluations: one block over one token, so often, in millions.
    passed: none where there is no target.
    """

    part: str
    way: str
    blocks: str = ""
    evaluations: str = ""
    seconds: str = ""
    compared: str = ""
    target: str = ""
    passed: bool | None = None

    @property
    def cells(self) -> tuple[str, ...]:
        """What stands below HEADINGS."""
        return self.blocks, self.evaluations, self.seconds, self.compared


def millions(evaluations: float) -> str:
    return f"{evaluations / 1e6:,.2f} M"
