"""Qwen2-VL (Wang et al., 2024): images at their own resolution, patches merged, rotary positions on three axes."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from vlmlake.ingest.families.base import Family, ImageInputs

IMAGE_TYPE = 1


class Qwen2VL(Family):
    """`Qwen2VLForConditionalGeneration`. Causal; the number of image tokens differs from image to image."""

    model_type = "qwen2_vl"
    template = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n<|vision_start|>{image}<|vision_end|>{question}<|im_end|>\n<|im_start|>assistant\n"
    )
    template_id = "qwen2-vl-chat"
    text_model_types = ("qwen2_vl_text",)
    grid_depends_on_size = True

    def image_inputs(self, image: Image.Image) -> ImageInputs:
        processed = self.image_processor(image, return_tensors="pt")
        merge = self.model.config.vision_config.spatial_merge_size
        _, rows, columns = processed["image_grid_thw"][0].tolist()
        arguments = {name: processed[name] for name in ("pixel_values", "image_grid_thw")}
        return ImageInputs(arguments, (rows // merge, columns // merge))

    def seen_region(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """All of it: `smart_resize` changes an image's shape a little, and cuts nothing off."""
        self.require_image_processor(("Qwen2VLImageProcessor",))
        return 0.0, 0.0, float(size[0]), float(size[1])

    def positions(self, ids: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
        """Time, row and column, from the model's own `get_rope_index`."""
        merge = self.model.config.vision_config.spatial_merge_size
        tokens = torch.from_numpy(ids.astype(np.int64))[None]
        found, _ = self.model.model.get_rope_index(
            input_ids=tokens,
            mm_token_type_ids=self._token_types(tokens),
            image_grid_thw=torch.tensor([[1, grid[0] * merge, grid[1] * merge]]),
        )
        positions: np.ndarray = found[:, 0].numpy()
        return positions

    def sequence_arguments(self, ids: torch.Tensor, answer: int = 0) -> dict[str, torch.Tensor]:
        return {"mm_token_type_ids": self._token_types(ids)}

    @property
    def closing_tokens(self) -> frozenset[int]:
        return frozenset([self.tokenizer.convert_tokens_to_ids("<|vision_end|>")])

    def _token_types(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.where(ids == self.model.config.image_token_id, IMAGE_TYPE, 0)
