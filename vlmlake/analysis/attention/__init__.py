"""Attention structure: how the answer's attention spreads over the image, and whether that tells if it is right."""

from __future__ import annotations

from vlmlake.analysis.attention.analysis import ATTENTION, AttentionParameters, AttentionResult, attention

__all__ = ["ATTENTION", "AttentionParameters", "AttentionResult", "attention"]
