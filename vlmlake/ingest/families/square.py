"""Images for vision towers of one fixed resolution: a patch is an image token."""

from __future__ import annotations

from collections.abc import Mapping

from PIL import Image

from vlmlake.errors import VlmlakeError
from vlmlake.ingest.families.base import Family, ImageInputs

KNOWN_PROCESSORS = ("CLIPImageProcessor", "SiglipImageProcessor", "LlavaImageProcessor")
"""Those that resize, then crop, each where its settings say so."""


def square_image_inputs(family: Family, image: Image.Image) -> ImageInputs:
    """What the image processor makes of an image, and its grid of patches.

    Raises VlmlakeError if the processor's size is not the vision tower's.
    """
    pixels = family.image_processor(image, return_tensors="pt")["pixel_values"]
    _require_tower_size(family, (pixels.shape[-1], pixels.shape[-2]))
    config = family.model.config.vision_config
    side = config.image_size // config.patch_size
    return ImageInputs({"pixel_values": pixels}, (side, side))


def square_seen_region(family: Family, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """What resizing, a centre crop and whole patches leave of an image: left, top, right and bottom in its own pixels.

    Sizes round as in transformers' `get_resize_output_image_size` and `center_crop`. size: width and height.

    Raises VlmlakeError if the processor pads, is not known, or its size is not the vision tower's.
    """
    family.require_image_processor(KNOWN_PROCESSORS)
    processor, config = family.image_processor, family.model.config.vision_config
    resized = _resized(size, processor.size) if processor.do_resize else size
    cropped = resized
    if getattr(processor, "do_center_crop", None):
        cropped = (processor.crop_size["width"], processor.crop_size["height"])
    if getattr(processor, "do_pad", None) or cropped[0] > resized[0] or cropped[1] > resized[1]:
        raise VlmlakeError(
            f"the image processor of {family.model.name_or_path} pads images of {size[0]} x {size[1]} pixels: which of "
            "them the image tokens see is known only where it resizes and crops"
        )
    _require_tower_size(family, cropped)
    seen = config.image_size // config.patch_size * config.patch_size
    first = [(whole - part) // 2 for whole, part in zip(resized, cropped, strict=True)]
    scale = [own / whole for own, whole in zip(size, resized, strict=True)]
    left, top = (start * step for start, step in zip(first, scale, strict=True))
    right, bottom = ((start + seen) * step for start, step in zip(first, scale, strict=True))
    return left, top, right, bottom


def _resized(size: tuple[int, int], settings: Mapping[str, int]) -> tuple[int, int]:
    """Width and height after resizing. settings: the processor's `size`."""
    told = dict(settings)
    if set(told) == {"height", "width"}:
        return told["width"], told["height"]
    if set(told) != {"shortest_edge"}:
        raise VlmlakeError(f"the image processor resizes to {told}: expected shortest_edge, or height and width")
    short, long = min(size), max(size)
    edges = (told["shortest_edge"], int(told["shortest_edge"] * long / short))
    return edges if size[0] <= size[1] else (edges[1], edges[0])


def _require_tower_size(family: Family, size: tuple[int, int]) -> None:
    side = family.model.config.vision_config.image_size
    if size != (side, side):
        raise VlmlakeError(
            f"the image processor makes {size[1]} x {size[0]} pixels, the vision tower takes {side} x {side}: the "
            "processor's and the model's config do not match"
        )
