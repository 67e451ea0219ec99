"""A row of the printed table: way, rate or seconds, bytes, requests, ratio to ours, target."""

from __future__ import annotations

from dataclasses import dataclass

HEADINGS = ("GB/s or s", "MB", "requests", "to ours")


@dataclass(frozen=True)
class Row:
    """value: a rate, seconds or bytes in words. ratio: how many times ours. passed: none where there is no target."""

    part: str
    way: str
    value: str
    bytes: str = ""
    requests: str = ""
    ratio: str = ""
    target: str = ""
    passed: bool | None = None

    @property
    def cells(self) -> tuple[str, ...]:
        """What stands below HEADINGS."""
        return self.value, self.bytes, self.requests, self.ratio
