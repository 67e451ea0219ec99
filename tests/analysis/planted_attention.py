"""Synthetic runs whose attention over the image has a known shape, in the form of a lake's Dataset."""

from __future__ import annotations

import numpy as np
import xarray as xr

from vlmlake.store_schema.schema import ANSWER, CUE, IMAGE, QUESTION, SYSTEM

WHOLE, READOUT = "attention", "readout_attention"
LONGEST_ANSWER = 2


def planted_attention(
    images: int = 40,
    questions: int = 4,
    blocks: int = 3,
    heads: int = 2,
    grid: tuple[int, int] = (4, 5),
    ragged: bool = False,
    array: str = WHOLE,
    sharp: tuple[int, int | None] | None = None,
    strength: float = 1.0,
    sharpness: tuple[float, ...] | None = None,
    seed: int = 0,
) -> xr.Dataset:
    """A run in which right answers come with sharper attention at one place, or nowhere.

    ragged: images have grids of different sizes, up to `grid`, prompts different lengths, and answers one or two
    tokens (else one). array: what the plan keeps. sharp: block and head (None: all heads) at which logits over the
    image are (1 + strength) times as large where the answer is right. sharpness: of the logits of each block.
    """
    rng = np.random.default_rng(seed)
    n = images * questions
    image = np.repeat(np.arange(images), questions)
    correct = rng.random(n) < 0.7
    shapes = np.tile(grid, (images, 1))
    suffix, answers = np.full(n, 4), np.ones(n, int)
    if ragged:
        shapes -= rng.integers(0, 2, (images, 2))
        suffix, answers = rng.integers(3, 6, n), rng.integers(1, LONGEST_ANSWER + 1, n)
    prefix_tokens, tokens = grid[0] * grid[1] + 2, int((suffix + answers).max()) + 1
    roles = np.full((images, prefix_tokens), -1, np.int8)
    row, column = np.full((2, images, prefix_tokens), -1, np.int16)
    for number, (high, wide) in enumerate(shapes):
        roles[number, : high * wide + 2] = [SYSTEM, *[IMAGE] * (high * wide), SYSTEM]
        cells = np.arange(high * wide)
        row[number, 1 : len(cells) + 1], column[number, 1 : len(cells) + 1] = cells // wide, cells % wide
    weights = _rows(rng, roles[image], suffix + answers, tokens, blocks, heads, correct, sharp, strength, sharpness)
    token_roles = np.full((n, tokens), -1, np.int8)
    for number in range(n):
        known = [*[QUESTION] * (suffix[number] - 1), CUE, *[ANSWER] * answers[number]]
        token_roles[number, : len(known)] = known
    stored = {WHOLE: (("example", "layer", "head", "query", "key"), weights)}
    if array == READOUT:
        rows = _readout(weights, suffix, answers)[..., :prefix_tokens]
        stored = {READOUT: (("example", "layer", "head", "position", "prefix_token"), rows)}
    gold = np.where(rng.random(n) < 0.5, "yes", "no")
    return xr.Dataset(
        {
            **stored,
            "image_update": (("prefix", "layer"), _no_embed(rng.random((images, blocks + 1)))),
            "token_role": (("example", "token"), token_roles),
            "prefix_token_role": (("prefix", "prefix_token"), roles),
            "image_row": (("prefix", "prefix_token"), row),
            "image_column": (("prefix", "prefix_token"), column),
        },
        coords={
            "example": [f"planted/random/{number}" for number in range(n)],
            "layer": ["embed", *(f"block_{number}" for number in range(blocks))],
            "position": ["prompt_last", *(f"answer_{number}" for number in range(LONGEST_ANSWER))],
            "row": ("example", np.arange(n)),
            "prefix": 10 + np.arange(images),
            "prefix_of": ("example", 10 + image),
            "dataset": ("example", ["planted"] * n),
            "split": ("example", np.where(np.arange(n) % 2, "random", "adversarial")),
            "image_sha256": ("example", [f"{number:064x}" for number in image]),
            "question": ("example", [f"question {number % questions}" for number in range(n)]),
            "gold": ("example", gold),
            "answer": ("example", np.where(correct, gold, np.where(gold == "yes", "no", "yes"))),
            "suffix_tokens": ("example", suffix),
            "answer_tokens": ("example", answers),
            "first_log_prob": ("example", -0.1 * (1 + np.arange(n) % 7)),
        },
        attrs={"run": "planted-00000000"},
    ).chunk({"example": 48, "layer": 1})


def _rows(rng, prefix_roles, lengths, tokens, blocks, heads, correct, sharp, strength, sharpness):
    """Softmax rows [n, layers, heads, queries, keys]: NaN where there is no token, 0 ahead of a query."""
    n, prefix_tokens = prefix_roles.shape
    keys = prefix_tokens + tokens
    logits = rng.normal(size=(n, blocks, heads, tokens, keys)).astype(np.float32)
    scale = np.ones((n, blocks, heads, 1, 1), np.float32)
    if sharpness is not None:
        scale *= np.array(sharpness, np.float32)[:, None, None, None]
    if sharp is not None:
        block, head = sharp
        places = range(heads) if head is None else (head,)
        for place in places:
            scale[:, block, place] *= 1 + strength * correct[:, None, None]
    logits[..., :prefix_tokens] *= scale
    number = np.arange(keys) - prefix_tokens
    known = np.arange(tokens) < lengths[:, None]
    there = np.concatenate([prefix_roles >= 0, known], axis=1)
    seen = (number <= np.arange(tokens)[:, None]) & there[:, None]
    with np.errstate(invalid="ignore"):
        weights = np.exp(np.where(seen[:, None, None], logits, -np.inf))
        weights /= weights.sum(axis=-1, keepdims=True)
    weights = np.where(there[:, None, None, None] & known[:, None, None, :, None], weights, np.nan)
    whole = np.full((n, blocks + 1, *weights.shape[2:]), np.nan, np.float32)
    whole[:, 1:] = weights
    return whole


def _readout(weights, suffix, answers):
    """The rows of prompt_last and the answer's tokens, NaN beyond the answer."""
    n = len(weights)
    found = np.full((*weights.shape[:3], LONGEST_ANSWER + 1, weights.shape[-1]), np.nan, np.float32)
    for number in range(LONGEST_ANSWER + 1):
        has = np.arange(n)[answers >= number]
        found[has, :, :, number] = weights[has, :, :, suffix[has] - 1 + number]
    return found


def _no_embed(values):
    values[:, 0] = np.nan
    return values.astype(np.float32)
