"""The analyses by name, each after those whose numbers it builds on."""

from __future__ import annotations

from vlmlake.analysis.attention import ATTENTION
from vlmlake.analysis.attribution import ATTRIBUTION
from vlmlake.analysis.causal import CAUSAL
from vlmlake.analysis.consistency import CONSISTENCY
from vlmlake.analysis.contract import Analysis
from vlmlake.analysis.labels import LABELS
from vlmlake.analysis.margins.margins import MARGINS
from vlmlake.analysis.neurons.neurons import NEURONS
from vlmlake.analysis.probes.attention_probe import ATTENTION_PROBE
from vlmlake.analysis.probes.fusion import FUSION
from vlmlake.analysis.probes.probes import PROBES
from vlmlake.analysis.selective import SELECTIVE

ORDER = (
    LABELS,
    ATTENTION,
    MARGINS,
    ATTRIBUTION,
    PROBES,
    ATTENTION_PROBE,
    CONSISTENCY,
    FUSION,
    SELECTIVE,
    NEURONS,
    CAUSAL,
)

ANALYSES: dict[str, Analysis] = {analysis.name: analysis for analysis in ORDER}
