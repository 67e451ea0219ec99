"""The questions of one batch about masked images, as the model takes them."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from vlmlake.errors import VlmlakeError
from vlmlake.ingest.families.base import Family, ImageInputs, Prompt
from vlmlake.ingest.generation import Questions
from vlmlake.ingest.interventions.masks.gray import cover
from vlmlake.ingest.items import Item


def masked_questions(
    family: Family,
    items: Sequence[Item],
    images: Sequence[Image.Image],
    prompts: Sequence[Prompt],
    patches: Sequence[Sequence[int]],
    shared: bool,
) -> Questions:
    """The same questions about their images with patches covered, under one condition.

    items, images (RGB), prompts, patches (numbers to cover, none for the image as it is): one per question. shared:
    whether questions of one image and equal patches share a prefix, as the family must allow; else each has its own.
    Every distinct masked image goes through the image processor once.

    Raises VlmlakeError for patches that an image does not have, or an image whose grid of tokens is another than its
    prompt's.
    """
    made: dict[tuple[str, tuple[int, ...]], ImageInputs] = {}
    of_question = []
    for item, image, prompt, covered in zip(items, images, prompts, patches, strict=True):
        key = (item.image_sha256, tuple(sorted(set(covered))))
        if key not in made:
            made[key] = _masked(family, item, image, prompt, key[1])
        of_question.append(key)
    distinct = list(made)
    return Questions(
        images=list(made.values()) if shared else [made[key] for key in of_question],
        prompts=list(prompts),
        keys=[item.key for item in items],
        prefix_of=[distinct.index(key) for key in of_question] if shared else range(len(items)),
    )


def _masked(family: Family, item: Item, image: Image.Image, prompt: Prompt, patches: tuple[int, ...]) -> ImageInputs:
    inputs = family.image_inputs(cover(image, family.seen_region(image.size), prompt.grid, patches))
    if inputs.grid != prompt.grid:
        raise VlmlakeError(
            f"the masked image {item.source.name} has {inputs.grid[0]} x {inputs.grid[1]} image tokens, its prompt "
            f"{prompt.grid[0]} x {prompt.grid[1]}: expected the image that the prompt was made for"
        )
    return inputs
