"""What image processors made, put together as a picture again, and images to give them."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from vlmlake.ingest.families.base import Family


def noise(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """Random pixels, none of them near gray. size: width and height."""
    values = np.random.default_rng(seed).integers(0, 90, (size[1], size[0], 3))
    return Image.fromarray(np.where(values % 2, values, 255 - values).astype(np.uint8))


def patch_side(family: Family) -> int:
    """Pixels along an image token, where the vision tower sees them."""
    tower = family.model.config.vision_config
    return tower.patch_size * getattr(tower, "spatial_merge_size", 1)


def picture(family: Family, arguments) -> np.ndarray:
    """[3, height, width] of one image's `pixel_values`; Qwen2-VL's are flat patches in the order of merging."""
    pixels = torch.as_tensor(np.asarray(arguments["pixel_values"]))
    if family.model_type != "qwen2_vl":
        return pixels[0].numpy()
    tower = family.model.config.vision_config
    merge, side = tower.spatial_merge_size, tower.patch_size
    _, rows, columns = np.asarray(arguments["image_grid_thw"])[0].tolist()
    shape = (rows // merge, columns // merge, merge, merge, 3, tower.temporal_patch_size, side, side)
    still = pixels.numpy().reshape(shape)[:, :, :, :, :, 0]
    return still.transpose(4, 0, 2, 5, 1, 3, 6).reshape(3, rows * side, columns * side)


def cells(family: Family, arguments, grid: tuple[int, int]) -> np.ndarray:
    """[rows, columns, 3, side, side]: the part of the picture that each image token stands for."""
    side = patch_side(family)
    part = picture(family, arguments)[:, : grid[0] * side, : grid[1] * side]
    return part.reshape(3, grid[0], side, grid[1], side).transpose(1, 3, 0, 2, 4)
