"""PaliGemma (Beyer et al., 2024): SigLIP, a projector, Gemma; image and question attend to one another both ways."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image

from vlmlake.ingest.families.base import Family, ImageInputs
from vlmlake.ingest.families.square import square_image_inputs, square_seen_region


class PaliGemma(Family):
    """`PaliGemmaForConditionalGeneration`. The whole prompt attends both ways: image states see the question."""

    model_type = "paligemma"
    template = "{image}<bos>answer en {question}\n"
    template_id = "paligemma-answer-en"
    text_model_types = ("gemma",)
    adds_special_tokens = False
    image_sees_question = True

    def image_inputs(self, image: Image.Image) -> ImageInputs:
        return square_image_inputs(self, image)

    def seen_region(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        return square_seen_region(self, size)

    def positions(self, ids: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
        """Counted from 1, as the model's own forward does."""
        return np.arange(1, len(ids) + 1, dtype=np.int64)[None]

    def sequence_arguments(self, ids: torch.Tensor, answer: int = 0) -> dict[str, torch.Tensor]:
        """Token type 0 over the prompt, which is seen both ways, 1 over the answer."""
        types = torch.zeros_like(ids)
        types[:, ids.shape[1] - answer :] = 1
        return {"token_type_ids": types}

    @property
    def final_norm_record(self) -> dict[str, Any]:
        return {"kind": "rms", "epsilon": float(self.final_norm.eps)}

    @property
    def final_norm_scale(self) -> torch.Tensor:
        """Gemma's norm multiplies with one plus its weight."""
        return 1.0 + super().final_norm_scale
