"""The analyses by name; each takes a run's Dataset and returns rows of tables.RESULTS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import xarray as xr

from vlmlake.analysis.accuracy import answer_accuracy
from vlmlake.analysis.attention import spatial_entropy
from vlmlake.analysis.probes import correctness_probes

Analysis = Callable[[xr.Dataset, str, int], list[dict[str, Any]]]

ANALYSES: dict[str, Analysis] = {
    "accuracy": answer_accuracy,
    "probes": correctness_probes,
    "spatial_entropy": spatial_entropy,
}

__all__ = ["ANALYSES", "Analysis", "answer_accuracy", "correctness_probes", "spatial_entropy"]
