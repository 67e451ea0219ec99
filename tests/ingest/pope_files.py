"""Questions of the tests' own in POPE's form, about drawn scenes of any size."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

from PIL import Image

from vlmlake.ingest.datasets.shapes import make_benchmark


def scene(number: int, size: tuple[int, int] | None = None) -> Image.Image:
    """One of eight drawn scenes, of so many pixels (width, height) where they are given."""
    drawn = Image.open(BytesIO(make_benchmark(8, seed=11).images[number].read())).convert("RGB")
    return drawn if size is None else drawn.resize(size)


def write_pope(
    folder: Path,
    images: Mapping[str, Image.Image],
    questions: Sequence[tuple[str, str]],
    split: str = "random",
    dataset: str = "tiny",
) -> str:
    """Write images and a question file; questions: pairs of image and text, numbered from 1. Returns a dataset spec."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for name, image in images.items():
        image.save(folder / "images" / name)
    rows = [
        {"question_id": number, "image": image, "text": text, "label": "yes"}
        for number, (image, text) in enumerate(questions, start=1)
    ]
    file = folder / f"{dataset}_pope_{split}.json"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return f"pope:{file}"
