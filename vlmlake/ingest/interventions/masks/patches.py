"""Which patches of an image are covered: the most attended, the least attended, or drawn ones."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np

from vlmlake.errors import VlmlakeError
from vlmlake.ingest.interventions.masks.saliency import image_attention
from vlmlake.ingest.interventions.masks.stored_images import StoredImage, example_places, stored_images
from vlmlake.ingest.interventions.requests.masking import HIGH, RANDOM, Masking, require_share
from vlmlake.store_schema.run import Run

Patches = tuple[int, ...]
"""Numbers of patches, row * columns + column, ascending."""


def masks_of(run: Run, examples: Sequence[str], masking: Masking) -> Mapping[tuple[str, int], Mapping[str, Patches]]:
    """For every set, by its name and member, the patches of every example that it covers.

    Attention is read once for all sets, and not at all for random ones alone. Examples of one image have the same
    random sets.

    Raises NotKeptError, UnknownNameError and VlmlakeError as `image_attention` does, and VlmlakeError if the share is
    less than a patch of some image.
    """
    data = run.dataset()
    images = dict(zip(examples, stored_images(data, example_places(run, data, examples)), strict=True))
    weights = image_attention(run, examples, masking.layer, masking.reduction) if masking.ranks else {}
    found: dict[tuple[str, int], Mapping[str, Patches]] = {}
    for one in masking.sets:
        for member in range(one.members):
            if one.name == RANDOM:
                found[one.name, member] = _drawn(images, member, masking)
            else:
                found[one.name, member] = {
                    example: attended(map_, masking.share, one.name == HIGH) for example, map_ in weights.items()
                }
    return found


def _drawn(images: Mapping[str, StoredImage], member: int, masking: Masking) -> dict[str, Patches]:
    return {
        example: random_patches(masking.seed, member, image.sha256, len(image.places), masking.share)
        for example, image in images.items()
    }


def attended(weights: np.ndarray, share: float, highest: bool) -> Patches:
    """The floor(share * S) patches with the highest (or lowest) weights; of equal ones the first. weights: [S].

    Raises VlmlakeError if the share is none, more than all, or less than a patch.
    """
    order = np.argsort(-weights if highest else weights, kind="stable")
    return _ascending(order[: _number(share, len(weights))])


def random_patches(seed: int, member: int, image: str, count: int, share: float) -> Patches:
    """floor(share * count) of an image's patches, drawn without replacement: by the seed, the member's number and the
    image, whatever the question, the batch and the machine. image: its SHA-256.

    Raises VlmlakeError as above.
    """
    digest = hashlib.sha256(f"{seed}\n{member}\n{image}".encode()).digest()
    # Uniform numbers are the part of a generator's stream that numpy keeps; `permutation` has changed before.
    draws = np.random.default_rng(int.from_bytes(digest[:16])).random(count)
    return _ascending(np.argsort(draws, kind="stable")[: _number(share, count)])


def _number(share: float, patches: int) -> int:
    """The share as it is written: 0.29 of 100 is 29, though the nearest binary fraction is less."""
    require_share(share)
    number = int(Fraction(str(share)) * patches)
    if not number:
        raise VlmlakeError(f"a share of {share} is less than one of {patches} patches: raise it to cover any")
    return number


def _ascending(patches: np.ndarray) -> Patches:
    return tuple(sorted(patches.tolist()))
