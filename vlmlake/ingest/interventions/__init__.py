"""Edits inside the model and of its images, and the shortest way to what they change."""

from __future__ import annotations

from vlmlake.ingest.interventions.intervene import Outcome, Progress, intervene, plan_intervention
from vlmlake.ingest.interventions.intervention import Settings
from vlmlake.ingest.interventions.requests.ablation import Ablation
from vlmlake.ingest.interventions.requests.bypass import Bypass
from vlmlake.ingest.interventions.requests.heads import HeadAblation
from vlmlake.ingest.interventions.requests.masking import Masking, MaskSet
from vlmlake.ingest.interventions.requests.patching import Patching
from vlmlake.ingest.interventions.routes import Plan

__all__ = [
    "Ablation",
    "HeadAblation",
    "Bypass",
    "Patching",
    "Masking",
    "MaskSet",
    "Settings",
    "intervene",
    "plan_intervention",
    "Plan",
    "Progress",
    "Outcome",
]
