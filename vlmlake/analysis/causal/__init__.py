"""What changes when the model or the image is changed: statistics of stored outcomes of interventions."""

from vlmlake.analysis.causal.causal import CAUSAL, CausalParameters, CausalResult, causal

__all__ = ["CAUSAL", "CausalParameters", "CausalResult", "causal"]
