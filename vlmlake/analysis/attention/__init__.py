"""Attention structure: how the answer's attention spreads over the image, and whether that tells if it is right."""

from __future__ import annotations

from vlmlake.analysis.attention.analysis import ATTENTION, AttentionParameters, AttentionResult, attention
from vlmlake.analysis.attention.tasks import image_maps

__all__ = ["ATTENTION", "AttentionParameters", "AttentionResult", "attention", "image_maps"]
