"""Drawn scenes with yes/no questions in POPE's form: a benchmark that anyone can make from a seed.

Its questions ask "Is there a red circle in the image?", half of them answered yes, the other half drawn by POPE's three
negative samplings (Li et al., EMNLP 2023, section 4.1): `random` (any absent kind), `popular` (the absent kinds seen in
most images), `adversarial` (its colour and its shape are both there, in different objects: the counterpart of POPE's
most frequently co-occurring object).
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from vlmlake.errors import VlmlakeError
from vlmlake.ingest.datasets.example import Example
from vlmlake.ingest.datasets.options import Options
from vlmlake.ingest.datasets.pope import SPLITS
from vlmlake.ingest.datasets.scenes import IMAGE_SIZE, KINDS, Kind, Scene, caption, draw, png, sample_scene

DATASET = "shapes_pope"
QUESTIONS_PER_ANSWER = 2
"""Questions of each answer (yes, no) that an image gets in every split."""


@dataclass(frozen=True)
class SceneImage:
    """A scene as an image source: drawn when it is read. name: the file that `write_benchmark` would write."""

    name: str
    scene: Scene

    def read(self) -> bytes:
        return png(self.scene)


@dataclass(frozen=True)
class Benchmark:
    """images: in the order of their names. rows: per split the questions, as POPE's files spell them."""

    images: tuple[SceneImage, ...]
    rows: dict[str, list[dict[str, object]]]


def load(location: str, options: Options) -> list[Example]:
    """The examples of `IMAGES` or `IMAGES@SEED`: what `pope:` reads where `write_benchmark` wrote the same, no files.

    Raises VlmlakeError for anything but two whole numbers.
    """
    parsed = re.fullmatch(r"([1-9][0-9]*)(?:@([0-9]+))?", location)
    if parsed is None:
        raise VlmlakeError(f"shapes:{location} is not shapes:IMAGES or shapes:IMAGES@SEED, for instance shapes:120@7")
    benchmark = make_benchmark(int(parsed[1]), int(parsed[2] or 0))
    sources = {image.name: image for image in benchmark.images}
    return [
        Example(
            dataset=DATASET,
            split=split,
            question_id=str(row["question_id"]),
            image=str(row["image"]),
            source=sources[str(row["image"])],
            question=str(row["text"]),
            gold=str(row["label"]),
        )
        for split in sorted(SPLITS)
        for row in benchmark.rows[split]
    ]


def question(kind: Kind) -> str:
    """POPE's question for one kind of object."""
    article = "an" if kind[0][0] in "aeiou" else "a"
    return f"Is there {article} {kind[0]} {kind[1]} in the image?"


def make_benchmark(images: int, seed: int = 0) -> Benchmark:
    """Scenes and their questions: four an image and split, two of them answered yes.

    The yes questions are the same in all splits, as in POPE. The same seed makes the same benchmark.
    """
    rng = random.Random(seed)
    scenes = [sample_scene(rng) for _ in range(images)]
    names = [f"scene_{number:06d}.png" for number in range(images)]

    seen_in = Counter(kind for scene in scenes for kind in scene.kinds)
    by_popularity = sorted(KINDS, key=lambda kind: (-seen_in[kind], kind))
    positives = [rng.sample(scene.kinds, QUESTIONS_PER_ANSWER) for scene in scenes]
    by_split: dict[str, list[dict[str, object]]] = {}
    for split in SPLITS:
        rows: list[dict[str, object]] = []
        for name, scene, present in zip(names, scenes, positives, strict=True):
            negatives = _negatives(scene, split, by_popularity, rng)
            for yes, no in zip(present, negatives, strict=True):
                for kind, label in ((yes, "yes"), (no, "no")):
                    rows.append({"question_id": len(rows) + 1, "image": name, "text": question(kind), "label": label})
        by_split[split] = rows
    return Benchmark(tuple(SceneImage(name, scene) for name, scene in zip(names, scenes, strict=True)), by_split)


def write_benchmark(folder: Path, images: int, seed: int = 0) -> list[Path]:
    """Write `images` scenes and their questions below `folder`; returns the three question files.

    Layout: `folder/images/*.png` and, per split, `folder/shapes_pope_<split>.json` in POPE's official JSON Lines form
    with the keys question_id, image, text, label. The same seed writes the same bytes.
    """
    benchmark = make_benchmark(images, seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for image in benchmark.images:
        (folder / "images" / image.name).write_bytes(image.read())
    files = []
    for split, rows in benchmark.rows.items():
        path = folder / f"{DATASET}_{split}.json"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        files.append(path)
    return files


def _negatives(scene: Scene, split: str, by_popularity: list[Kind], rng: random.Random) -> list[Kind]:
    if split == "popular":
        present = set(scene.kinds)
        return [kind for kind in by_popularity if kind not in present][:QUESTIONS_PER_ANSWER]
    return rng.sample(scene.absent if split == "random" else scene.lures, QUESTIONS_PER_ANSWER)


__all__ = [
    "IMAGE_SIZE",
    "KINDS",
    "SPLITS",
    "Benchmark",
    "Kind",
    "Scene",
    "SceneImage",
    "caption",
    "draw",
    "load",
    "make_benchmark",
    "question",
    "sample_scene",
    "write_benchmark",
]
