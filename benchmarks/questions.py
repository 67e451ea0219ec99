"""Questions in POPE's form about images of noise."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

QUESTIONS_AN_IMAGE = 6
SEED = 0
OBJECTS = (
    "dog",
    "cup of tea",
    "bicycle",
    "red car",
    "person on the bench",
    "cat",
    "blue bird",
    "tennis racket",
    "train",
    "green bottle",
    "pizza",
    "dining table",
)


def write_images(folder: Path, count: int, size: tuple[int, int]) -> None:
    """PNG files of seeded noise; size: width and height."""
    rng = np.random.default_rng(SEED)
    folder.mkdir()
    for number in range(count):
        noise = rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{number:05d}.png")


def write_questions(file: Path, images: int) -> Path:
    """QUESTIONS_AN_IMAGE questions about each of the first `images` images, as JSON lines; every second gold answer is
    no.
    """
    rng = np.random.default_rng(SEED)
    rows = []
    for image in range(images):
        for chosen in rng.permutation(len(OBJECTS))[:QUESTIONS_AN_IMAGE]:
            asked = f"Is there a {OBJECTS[chosen]} in the image?"
            label = "no" if len(rows) % 2 else "yes"
            rows.append({"question_id": len(rows), "image": f"{image:05d}.png", "text": asked, "label": label})
    file.write_text("\n".join(json.dumps(row) for row in rows))
    return file
