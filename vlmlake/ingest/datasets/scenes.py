"""Drawn scenes: two to four coloured shapes on a three by three grid, from a seeded source of chance."""

from __future__ import annotations

import random
from dataclasses import dataclass
from io import BytesIO

from PIL import Image, ImageDraw

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
LURES_WANTED = 2
"""Every scene has at least so many, so that an adversarial split can ask about them."""

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
        if len(scene.lures) >= LURES_WANTED:
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


def png(scene: Scene) -> bytes:
    """The drawn scene as a PNG file; the same scene gives the same bytes under the same Pillow."""
    buffer = BytesIO()
    draw(scene).save(buffer, format="PNG")
    return buffer.getvalue()


def caption(scene: Scene) -> str:
    """What is there, in reading order: the sentence that the tiny models learn to see from."""
    return ", ".join(f"{colour} {shape}" for colour, shape in scene.kinds)


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
