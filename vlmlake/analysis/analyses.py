"""The analyses by name, each after those whose numbers it builds on."""

from __future__ import annotations

from vlmlake.analysis.attention import ATTENTION
from vlmlake.analysis.attribution import ATTRIBUTION
from vlmlake.analysis.contract import Analysis
from vlmlake.analysis.labels import LABELS
from vlmlake.analysis.margins.margins import MARGINS

ANALYSES: dict[str, Analysis] = {analysis.name: analysis for analysis in (LABELS, ATTENTION, MARGINS, ATTRIBUTION)}
