"""Every analysis of the study, from the store alone: each takes a run or its Dataset and returns a typed Result with
`.table`, `.to_xarray()` and `.plot()`.
"""

from __future__ import annotations

from vlmlake.analysis.attention import AttentionParameters, AttentionResult, attention
from vlmlake.analysis.attribution import AttributionResult, attribution
from vlmlake.analysis.causal import CausalParameters, CausalResult, causal
from vlmlake.analysis.consistency import ConsistencyResult, consistency
from vlmlake.analysis.labels import LabelsResult, labels
from vlmlake.analysis.margins.margins import MarginParameters, MarginsResult, margins
from vlmlake.analysis.neurons.neurons import NeuronParameters, NeuronsResult, neurons
from vlmlake.analysis.probes.attention_probe import AttentionProbeParameters, attention_probe
from vlmlake.analysis.probes.fusion import fusion
from vlmlake.analysis.probes.one_probe import FoldParameters, OneProbeResult
from vlmlake.analysis.probes.probes import ProbeParameters, ProbesResult, probes
from vlmlake.analysis.result import Result
from vlmlake.analysis.selective import SelectiveParameters, SelectiveResult, selective

__all__ = [
    "labels",
    "attention",
    "margins",
    "attribution",
    "probes",
    "attention_probe",
    "consistency",
    "fusion",
    "selective",
    "neurons",
    "causal",
    "Result",
    "AttentionParameters",
    "AttentionProbeParameters",
    "AttentionResult",
    "AttributionResult",
    "CausalParameters",
    "CausalResult",
    "ConsistencyResult",
    "FoldParameters",
    "LabelsResult",
    "MarginParameters",
    "MarginsResult",
    "NeuronParameters",
    "NeuronsResult",
    "OneProbeResult",
    "ProbeParameters",
    "ProbesResult",
    "SelectiveParameters",
    "SelectiveResult",
]
