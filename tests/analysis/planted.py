"""Synthetic runs with a known truth, in the shape that a lake's Dataset has."""

from __future__ import annotations

import numpy as np
import xarray as xr

from vlmlake.store_schema.schema import ROLES

LAYERS = ("embed", "block_0", "block_1", "block_2")
GRID = 4
PATCHES = GRID * GRID
PREFIX, SUFFIX = PATCHES + 2, 6


def planted_run(
    images: int = 80,
    questions: int = 6,
    hidden: int = 12,
    signal_layer: str | None = None,
    strength: float = 2.0,
    entropy_effect: float = 0.0,
    image_effect: float = 0.0,
    seed: int = 0,
) -> xr.Dataset:
    """A run whose correctness is written into one layer's readout states, or into the sharpness of its attention.

    signal_layer: where correctness moves one coordinate by `strength` standard deviations. entropy_effect: how much
    sharper the image attention of right answers is. image_effect: each image's own constant in every coordinate, with
    correctness the same for all of an image's questions: what a split that ignores images would leak.
    """
    rng = np.random.default_rng(seed)
    n = images * questions
    image = np.repeat(np.arange(images), questions)
    correct = rng.random(n) < 0.7
    if image_effect:
        correct = (rng.random(images) < 0.6)[image]
    states = rng.normal(size=(n, len(LAYERS), 2, hidden))
    states += image_effect * rng.normal(size=(images, 1, 1, hidden))[image]
    if signal_layer:
        states[:, LAYERS.index(signal_layer), 0, 3] += strength * correct
    attention = np.full((n, len(LAYERS), 2, SUFFIX, PREFIX + SUFFIX), np.nan)
    logits = rng.normal(size=(n, len(LAYERS) - 1, 2, SUFFIX - 1, PREFIX + SUFFIX))
    logits *= (1 + entropy_effect * correct)[:, None, None, None, None]
    future = np.arange(PREFIX + SUFFIX)[None] > np.arange(PREFIX, PREFIX + SUFFIX - 1)[:, None]
    weights = np.exp(np.where(future, -np.inf, logits))
    attention[:, 1:, :, : SUFFIX - 1] = weights / weights.sum(-1, keepdims=True)
    attention[..., -1] = np.where(np.isnan(attention[..., -1]), np.nan, 0)
    roles, cells = ["system", *["image"] * PATCHES, "system"], np.arange(PATCHES)
    gold = np.where(rng.random(n) < 0.5, "yes", "no")
    other = np.where(gold == "yes", "no", "yes")
    return xr.Dataset(
        {
            "readout_states": (("example", "layer", "position", "hidden"), states.astype(np.float32)),
            "attention": (("example", "layer", "head", "query", "key"), attention.astype(np.float32)),
            "token_role": (
                ("example", "token"),
                np.tile([ROLES.index(role) for role in ["question"] * 3 + ["cue", "answer"]] + [-1], (n, 1)),
            ),
            "prefix_token_role": (
                ("prefix", "prefix_token"),
                np.tile([ROLES.index(role) for role in roles], (images, 1)),
            ),
            "image_row": (("prefix", "prefix_token"), np.tile([-1, *cells // GRID, -1], (images, 1))),
            "image_column": (("prefix", "prefix_token"), np.tile([-1, *cells % GRID, -1], (images, 1))),
        },
        coords={
            "example": [f"planted/random/{number}" for number in range(n)],
            "layer": list(LAYERS),
            "position": ["prompt_last", "answer_0"],
            "row": ("example", np.arange(n)),
            "prefix": np.arange(images),
            "prefix_of": ("example", image),
            "dataset": ("example", ["planted"] * n),
            "split": ("example", np.where(np.arange(n) % 2, "random", "adversarial")),
            "image_sha256": ("example", [f"{number:064x}" for number in image]),
            "question": ("example", [f"question {number % questions}" for number in range(n)]),
            "gold": ("example", gold),
            "answer": ("example", np.where(correct, gold, other)),
            "suffix_tokens": ("example", np.full(n, 4)),
            "answer_tokens": ("example", np.ones(n, int)),
            "first_log_prob": ("example", rng.normal(size=n)),
            "first_gap": ("example", rng.normal(size=n)),
            "first_entropy": ("example", rng.normal(size=n)),
        },
        attrs={"run": "planted-00000000"},
    ).chunk({"example": 48, "layer": 1})
