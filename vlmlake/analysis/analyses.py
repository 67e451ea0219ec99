"""The analyses by name, each after those whose numbers it builds on."""

from __future__ import annotations

from vlmlake.analysis.contract import Analysis
from vlmlake.analysis.labels import LABELS

ANALYSES: dict[str, Analysis] = {analysis.name: analysis for analysis in (LABELS,)}
