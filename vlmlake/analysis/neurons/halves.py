"""Images cut in two: one half ranks the neurons, the other is kept for what is measured of them."""

from __future__ import annotations

import hashlib

import numpy as np


def kept_images(images: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Which examples' images are kept for ablation: by a seeded hash of the image's own, whatever else the run holds.

    images: [n], content hashes. share: about how much of them to keep, between 0 and 1. Returns [n], bool.
    """
    unique, place = np.unique(images.astype(str), return_inverse=True)
    kept = np.array([_fraction(image, seed) < share for image in unique], bool)
    return kept[place]


def _fraction(image: str, seed: int) -> float:
    """Between 0 and 1, evenly."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{image}".encode()).digest()[:8], "big") / 2**64
