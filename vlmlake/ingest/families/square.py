"""Images for vision towers of one fixed resolution: a patch is an image token."""

from __future__ import annotations

from PIL import Image

from vlmlake.errors import VlmlakeError
from vlmlake.ingest.families.base import Family, ImageInputs


def square_image_inputs(family: Family, image: Image.Image) -> ImageInputs:
    """What the image processor makes of an image, and its grid of patches.

    Raises VlmlakeError if the processor's size is not the vision tower's.
    """
    config = family.model.config.vision_config
    pixels = family.image_processor(image, return_tensors="pt")["pixel_values"]
    if tuple(pixels.shape[-2:]) != (config.image_size, config.image_size):
        raise VlmlakeError(
            f"the image processor makes {pixels.shape[-2]} x {pixels.shape[-1]} pixels, the vision tower takes "
            f"{config.image_size} x {config.image_size}: the processor's and the model's config do not match"
        )
    side = config.image_size // config.patch_size
    return ImageInputs({"pixel_values": pixels}, (side, side))
