"""The part of an image that its tokens span, against what the image processor itself takes from where."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from PIL import Image
from transformers import CLIPImageProcessorPil, LlavaImageProcessorPil, SiglipImageProcessorPil, ViTImageProcessorPil

from tests.ingest.interventions.processed import patch_side, picture
from vlmlake.errors import VlmlakeError
from vlmlake.ingest.families import load_family
from vlmlake.ingest.families.base import Family
from vlmlake.ingest.model_source import ModelSource

SIZES = ((48, 48), (35, 35), (97, 64), (64, 97), (101, 99), (250, 61), (53, 241), (41, 40), (39, 57))
"""Width and height; none beyond 255, so that a pixel's colour can say where it lies."""


def places(size) -> Image.Image:
    """Red is a pixel's column, green its row."""
    column, row = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    return Image.fromarray(np.stack([column, row, 0 * row], axis=-1).astype(np.uint8))


def require_seen(family, size) -> None:
    """Taking the nearest pixel, the processor takes those that lie under the region's own."""
    image = places(size)
    grid = family.image_inputs(image).grid
    raw = family.image_processor(image, return_tensors="pt", resample=0, do_rescale=False, do_normalize=False)
    left, top, right, bottom = family.seen_region(size)
    assert 0 <= left < right <= size[0] + 1e-9
    assert 0 <= top < bottom <= size[1] + 1e-9
    taken = picture(family, raw)
    for colour, (first, last, cells) in enumerate(((left, right, grid[1]), (top, bottom, grid[0]))):
        pixels = cells * patch_side(family)
        wanted = first + (np.arange(pixels) + 0.5) * (last - first) / pixels
        along = taken[colour, 0, :pixels] if colour == 0 else taken[colour, :pixels, 0]
        assert np.abs(along + 0.5 - wanted).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_it_is_where_the_processor_takes_its_pixels_from(family, size):
    require_seen(family, size)


def with_processor(folders, name: str, processor) -> Family:
    family = copy.copy(load_family(ModelSource(str(folders[name]))))
    family.image_processor = processor
    return family


SQUARE = {"height": 35, "width": 35}


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
    "settings",
    [
        {"size": {"shortest_edge": 40}, "crop_size": SQUARE},
        {"size": {"shortest_edge": 36}, "crop_size": SQUARE},
        {"size": SQUARE, "do_center_crop": False},
        {"size": {"height": 40, "width": 53}, "crop_size": SQUARE},
        {"do_resize": False, "crop_size": SQUARE},
    ],
    ids=str,
)
def test_other_settings_of_the_same_processor(folders, settings, size):
    require_seen(with_processor(folders, "random_llava", CLIPImageProcessorPil(**settings)), size)


def test_pixels_that_fill_no_whole_patch_are_not_seen(folders):
    """As in SigLIP at 384 pixels with patches of 14."""
    family = with_processor(folders, "random_paligemma", SiglipImageProcessorPil(size={"height": 40, "width": 40}))
    family.model.config.vision_config.image_size = 40
    family.model.config.vision_config.patch_size = 7
    for size in SIZES:
        require_seen(family, size)
    assert family.seen_region((80, 160)) == (0, 0, 70, 140)


@pytest.mark.parametrize(
    ("processor", "told"),
    [
        (LlavaImageProcessorPil(size={"shortest_edge": 35}, crop_size=SQUARE, do_pad=True), "pads images of 90 x 60"),
        (CLIPImageProcessorPil(size={"shortest_edge": 30}, crop_size=SQUARE), "pads images of 90 x 60 pixels"),
        (
            CLIPImageProcessorPil(size={"shortest_edge": 35, "longest_edge": 70}, crop_size=SQUARE),
            "resizes to {.*}: expected shortest_edge, or height and width",
        ),
        (CLIPImageProcessorPil(size={"shortest_edge": 35}, do_center_crop=False), "35 x 52 pixels, the vision tower"),
        (ViTImageProcessorPil(size=SQUARE), "ViTImageProcessor of .* is not known: expected CLIPImageProcessor or"),
    ],
    ids=["padded to a square", "smaller than its crop", "two edges", "not square", "another class"],
)
def test_what_is_not_known_is_refused(folders, processor, told):
    with pytest.raises(VlmlakeError, match=told):
        with_processor(folders, "random_llava", processor).seen_region((90, 60))


def test_another_processor_of_qwen2_vl_is_refused(folders):
    family = with_processor(folders, "random_qwen2_vl", SiglipImageProcessorPil(size=SQUARE))
    with pytest.raises(VlmlakeError, match=r"SiglipImageProcessor of .* is not known: expected Qwen2VLImageProcessor"):
        family.seen_region((90, 60))


def test_a_family_that_does_not_say_it_refuses(folders):
    family = load_family(ModelSource(str(folders["random_llava"])))
    with pytest.raises(VlmlakeError, match="llava does not say which part of an image its image tokens see"):
        Family.seen_region(family, (90, 60))
