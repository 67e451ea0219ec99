"""Drawn scenes with yes/no questions in POPE's form: a benchmark that anyone can make from a seed.

A scene holds two to four coloured shapes on a three by three grid. Its questions ask "Is there a red circle in the
image?", half of them answered yes, the other half drawn by POPE's three negative samplings (Li et al., EMNLP 2023,
section 4.1): `random` (any absent kind), `popular` (the absent kinds seen in most images), `adversarial` (its colour
and its shape are both there, in different objects: the counterpart of POPE's most frequently co-occurring object).
"""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from vlmlake.ingest.datasets.pope import SPLITS

COLOURS = {
    "red": (213, 43, 43),
    "green": (44, 160, 60),
    "blue": (45, 80, 210),
    "yellow": (236, 200, 40),
    "purple": (140, 60, 175),
    "orange": (245, 135, 30),
}
SHAPES = ("circle", "square", "triangle", "cross")
KINDS = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)
GRID = 3
IMAGE_SIZE = 192
BACKGROUND = (242, 240, 235)
QUESTIONS_PER_ANSWER = 2
"""Questions of each answer (yes, no) that an image gets in every split."""

Kind = tuple[str, str]


@dataclass(frozen=True)
class Thing:
    """One drawn object: what it is, its grid cell, its radius and its offset from the cell's centre, in pixels."""

    kind: Kind
    row: int
    column: int
    radius: int
    shift: tuple[int, int]


@dataclass(frozen=True)
class Scene:
    """Things in reading order (by row, then column), no two of the same kind."""

    things: tuple[Thing, ...]

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return tuple(thing.kind for thing in self.things)

    @property
    def absent(self) -> tuple[Kind, ...]:
        present = set(self.kinds)
        return tuple(kind for kind in KINDS if kind not in present)

    @property
    def lures(self) -> tuple[Kind, ...]:
        """Absent kinds whose colour and shape both occur, each in another object."""
        colours = {colour for colour, _ in self.kinds}
        shapes = {shape for _, shape in self.kinds}
        return tuple(kind for kind in self.absent if kind[0] in colours and kind[1] in shapes)


def sample_scene(rng: random.Random) -> Scene:
    """A scene with enough lures for an adversarial split; kinds follow a skewed law, so that some are popular."""
    while True:
        count = rng.choice((2, 3, 4))
        kinds: list[Kind] = []
        while len(kinds) < count:
            kind = rng.choices(KINDS, weights=_FREQUENCIES)[0]
            if kind not in kinds:
                kinds.append(kind)
        cells = sorted(rng.sample(range(GRID * GRID), count))
        things = (
            Thing(kind, *divmod(cell, GRID), rng.randint(20, 27), (rng.randint(-4, 4), rng.randint(-4, 4)))
            for kind, cell in zip(kinds, cells, strict=True)
        )
        scene = Scene(tuple(things))
        if len(scene.lures) >= QUESTIONS_PER_ANSWER:
            return scene


def draw(scene: Scene) -> Image.Image:
    """The scene as an RGB image of IMAGE_SIZE x IMAGE_SIZE pixels."""
    image = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), BACKGROUND)
    pen = ImageDraw.Draw(image)
    cell = IMAGE_SIZE // GRID
    for thing in scene.things:
        x = thing.column * cell + cell // 2 + thing.shift[0]
        y = thing.row * cell + cell // 2 + thing.shift[1]
        _draw_shape(pen, thing.kind[1], x, y, thing.radius, COLOURS[thing.kind[0]])
    return image


def question(kind: Kind) -> str:
    """POPE's question for one kind of object."""
    article = "an" if kind[0][0] in "aeiou" else "a"
    return f"Is there {article} {kind[0]} {kind[1]} in the image?"


def caption(scene: Scene) -> str:
    """What is there, in reading order: the sentence that the tiny models learn to see from."""
    return ", ".join(f"{colour} {shape}" for colour, shape in scene.kinds)


def write_benchmark(folder: Path, images: int, seed: int = 0) -> list[Path]:
    """Write `images` scenes and their questions below `folder`; returns the three question files.

    Layout: `folder/images/*.png` and, per split, `folder/shapes_pope_<split>.json` in POPE's official JSON Lines form
    with the keys question_id, image, text, label. Each image gets four questions a split, two of them answered yes;
    the yes questions are the same in all splits, as in POPE. The same seed writes the same bytes.
    """
    rng = random.Random(seed)
    scenes = [sample_scene(rng) for _ in range(images)]
    (folder / "images").mkdir(parents=True, exist_ok=True)
    names = [f"scene_{number:06d}.png" for number in range(images)]
    for name, scene in zip(names, scenes, strict=True):
        draw(scene).save(folder / "images" / name)

    seen_in = Counter(kind for scene in scenes for kind in scene.kinds)
    by_popularity = sorted(KINDS, key=lambda kind: (-seen_in[kind], kind))
    positives = [rng.sample(scene.kinds, QUESTIONS_PER_ANSWER) for scene in scenes]
    files = []
    for split in SPLITS:
        path = folder / f"shapes_pope_{split}.json"
        rows: list[dict[str, object]] = []
        for name, scene, present in zip(names, scenes, positives, strict=True):
            negatives = _negatives(scene, split, by_popularity, rng)
            for yes, no in zip(present, negatives, strict=True):
                for kind, label in ((yes, "yes"), (no, "no")):
                    rows.append({"question_id": len(rows) + 1, "image": name, "text": question(kind), "label": label})
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        files.append(path)
    return files


def _negatives(scene: Scene, split: str, by_popularity: list[Kind], rng: random.Random) -> list[Kind]:
    if split == "popular":
        present = set(scene.kinds)
        return [kind for kind in by_popularity if kind not in present][:QUESTIONS_PER_ANSWER]
    return rng.sample(scene.absent if split == "random" else scene.lures, QUESTIONS_PER_ANSWER)


def _draw_shape(pen: ImageDraw.ImageDraw, shape: str, x: int, y: int, r: int, fill: tuple[int, int, int]) -> None:
    if shape == "circle":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=fill)
    elif shape == "square":
        side = round(r * 0.88)
        pen.rectangle((x - side, y - side, x + side, y + side), fill=fill)
    elif shape == "triangle":
        pen.polygon(((x, y - r), (x + r, y + r * 0.8), (x - r, y + r * 0.8)), fill=fill)
    else:
        arm = round(r * 0.36)
        pen.rectangle((x - r, y - arm, x + r, y + arm), fill=fill)
        pen.rectangle((x - arm, y - r, x + arm, y + r), fill=fill)


def _skewed_frequencies() -> list[float]:
    order = list(range(len(KINDS)))
    random.Random(7).shuffle(order)
    return [1.0 / (rank + 6) for rank in order]


_FREQUENCIES = _skewed_frequencies()
