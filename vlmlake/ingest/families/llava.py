"""LLaVA-1.5 (Liu et al., CVPR 2024): a vision tower, a projector, a causal decoder; one image token per patch."""

from __future__ import annotations

from PIL import Image

from vlmlake.errors import VlmlakeError
from vlmlake.ingest.families.base import Family, ImageInputs


class Llava(Family):
    """`LlavaForConditionalGeneration`. Its decoder is causal: nothing up to the last image token sees the question."""

    model_type = "llava"
    template = "USER: {image}\n{question} ASSISTANT:"
    template_id = "llava-1.5-user-assistant"

    @property
    def image_token(self) -> str:
        return str(self.tokenizer.convert_ids_to_tokens(self.model.config.image_token_id))

    def image_inputs(self, image: Image.Image) -> ImageInputs:
        config = self.model.config
        if config.vision_feature_select_strategy != "default":
            raise VlmlakeError(
                f"vision_feature_select_strategy is {config.vision_feature_select_strategy!r}: only `default`, "
                "which drops the class token, gives image tokens that form a grid"
            )
        pixels = self.image_processor(image.convert("RGB"), return_tensors="pt")["pixel_values"]
        wanted = config.vision_config.image_size
        if tuple(pixels.shape[-2:]) != (wanted, wanted):
            raise VlmlakeError(
                f"the image processor makes {pixels.shape[-2]} x {pixels.shape[-1]} pixels, the vision tower takes "
                f"{wanted} x {wanted}: preprocessor_config.json and config.json do not belong together"
            )
        patch = config.vision_config.patch_size
        return ImageInputs({"pixel_values": pixels}, (pixels.shape[-2] // patch, pixels.shape[-1] // patch))
