"""Every analysis of a run, from the store alone; each takes a run or its Dataset and returns a typed Result."""

from __future__ import annotations

from vlmlake.analysis.labels import LabelsResult, labels
from vlmlake.analysis.result import Result

__all__ = ["Result", "LabelsResult", "labels"]
