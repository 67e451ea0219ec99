"""Synthetic runs whose margins part at a known block, by a known share of its MLP's write."""

from __future__ import annotations

import numpy as np
import xarray as xr

TEXTS = ("", "Yes", " yes", "no", "\u0120No", "a", "red", "circle", "not", "yesterday", "\u2581dog", ".")
YES, NO = [1, 2], [3, 4]
HIDDEN = 16
EPSILON = 1e-5


def planted_margins(
    images: int = 60,
    questions: int = 4,
    blocks: int = 5,
    signal_block: int | None = 2,
    mlp_share: float = 0.75,
    strength: float = 3.0,
    seed: int = 0,
) -> xr.Dataset:
    """Answers that are decided in one block, along the one coordinate that tells yes from no.

    signal_block: the block whose writes push the residual stream towards the answer that is given, by about `strength`;
    none: the answers have nothing to do with it. mlp_share: how much of the push the MLP writes. On the blank image
    nothing pushes. All other writes are noise beside that coordinate.
    """
    rng = np.random.default_rng(seed)
    n = images * questions
    image = np.repeat(np.arange(images), questions)
    correct = np.clip(rng.random(n) < 0.7, 0, 1)
    gold = np.where(rng.random(n) < 0.5, "yes", "no")
    said = np.where((gold == "yes") == (correct == 1), 1.0, -1.0)
    unembedding = 0.05 * rng.normal(size=(len(TEXTS), HIDDEN))
    unembedding[YES + NO] = 0
    unembedding[YES + NO, 0] = [1, 0.5, -1, -0.5]
    writes = 0.4 * rng.normal(size=(2, n, blocks, HIDDEN))
    writes[..., 0] = 0
    embed = rng.normal(size=(n, HIDDEN))
    embed[:, 0] = 0
    blank = _stream(embed, writes)
    if signal_block is not None:
        push = strength * said * (1 + 0.3 * rng.random(n))
        writes[0, :, signal_block, 0] += (1 - mlp_share) * push
        writes[1, :, signal_block, 0] += mlp_share * push
    states = _stream(embed, writes)
    scale = np.linspace(0.9, 1.1, HIDDEN)
    last = states[:, -1] / np.sqrt((states[:, -1] ** 2).mean(axis=1, keepdims=True) + EPSILON) * scale
    none = np.full((n, 1, HIDDEN), np.nan)
    return xr.Dataset(
        {
            "readout_states": (("example", "layer", "position", "hidden"), np.float32(states)[:, :, None]),
            "blank_states": (("example", "layer", "hidden"), np.float32(blank)),
            "logits": (("example", "position", "vocab"), np.float32(last @ unembedding.T)[:, None]),
            "attn_write": (("example", "layer", "hidden"), np.float32(np.concatenate([none, writes[0]], axis=1))),
            "mlp_write": (("example", "layer", "hidden"), np.float32(np.concatenate([none, writes[1]], axis=1))),
            "unembedding": (("vocab", "hidden"), np.float32(unembedding)),
            "final_norm": ("hidden", np.float32(scale)),
        },
        coords={
            "example": [f"planted/{number % 2}/{number}" for number in range(n)],
            "layer": ["embed", *(f"block_{number}" for number in range(blocks))],
            "position": ["prompt_last"],
            "token_text": ("vocab", np.array(TEXTS, object)),
            "row": ("example", np.arange(n)),
            "dataset": ("example", ["planted"] * n),
            "split": ("example", np.where(np.arange(n) % 2, "random", "adversarial")),
            "image_sha256": ("example", [f"{number:064x}" for number in image]),
            "question": ("example", [f"question {number % questions}" for number in range(n)]),
            "gold": ("example", gold),
            "answer": ("example", np.where(said > 0, "yes", "no")),
        },
        attrs={"run": "planted-00000000", "final_norm_epsilon": EPSILON},
    ).chunk({"example": 64, "layer": 1})


def _stream(embed: np.ndarray, writes: np.ndarray) -> np.ndarray:
    """The residual stream, [n, blocks + 1, hidden], of the embeddings and all writes."""
    return np.concatenate([embed[:, None], embed[:, None] + writes.sum(axis=0).cumsum(axis=1)], axis=1)
