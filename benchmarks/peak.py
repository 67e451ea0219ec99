"""The largest resident memory of this process."""

from __future__ import annotations

from pathlib import Path

PROCESS = Path("/proc/self")


def peak_memory() -> int:
    """In bytes, since the program began or `forget_peak` was called. (What getrusage tells, a child takes over from the
    process that started it.)
    """
    status = (PROCESS / "status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(peak.split()[1]) * 1024


def forget_peak() -> None:
    """Count from now on."""
    (PROCESS / "clear_refs").write_text("5")
