"""LLaVA-1.5 (Liu et al., CVPR 2024): a vision tower, a projector, a causal decoder; one image token per patch."""

from __future__ import annotations

from PIL import Image

from vlmlake.errors import VlmlakeError
from vlmlake.ingest.families.base import Family, ImageInputs
from vlmlake.ingest.families.square import square_image_inputs, square_seen_region


class Llava(Family):
    """`LlavaForConditionalGeneration`. Its decoder is causal: nothing up to the last image token sees the question."""

    model_type = "llava"
    template = "USER: {image}\n{question} ASSISTANT:"
    template_id = "llava-1.5-user-assistant"
    text_model_types = ("llama", "mistral", "qwen2")

    def check(self) -> None:
        config = self.model.config
        if config.vision_feature_select_strategy != "default":
            raise VlmlakeError(
                f"vision_feature_select_strategy is {config.vision_feature_select_strategy!r}: only `default`, "
                "which drops the class token, gives image tokens that form a grid"
            )

    def image_inputs(self, image: Image.Image) -> ImageInputs:
        return square_image_inputs(self, image)

    def seen_region(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        return square_seen_region(self, size)
