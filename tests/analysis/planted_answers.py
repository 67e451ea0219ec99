"""Synthetic runs of answers alone: who is right, how sure, and what was drawn, by a known law."""

from __future__ import annotations

import numpy as np
import xarray as xr
from scipy import stats


def planted_answers(
    images: int = 100, questions: int = 6, draws: int = 10, signal: float = 1.0, seed: int = 0
) -> xr.Dataset:
    """A run in which each question has its own probability of a right answer, p = Phi(0.9 + signal * ease) of a normal
    `ease` that the questions of an image share in part.

    The greedy answer is right with probability p, and so is each drawn one, where `signal` is 1; where it is 0 the same
    drawn answers have nothing to do with the greedy one. The first token's probability is p (its log-prob its log), the
    gap and the entropy follow from it.
    """
    rng = np.random.default_rng(seed)
    image = np.repeat(np.arange(images), questions)
    n = len(image)
    ease = np.sqrt(0.3) * rng.normal(size=images)[image] + np.sqrt(0.7) * rng.normal(size=n)
    sure = stats.norm.cdf(0.9 + ease)
    correct = rng.random(n) < (sure if signal else sure.mean())
    drawn_right = rng.random((n, draws)) < sure[:, None]
    gold = np.where(rng.random(n) < 0.5, "yes", "no").astype(object)
    other = np.where(gold == "yes", "no", "yes").astype(object)
    spelt = np.where(rng.random((n, draws)) < 0.5, " ", "")
    drawn = np.where(drawn_right, gold[:, None], other[:, None]).astype(object)
    certain = np.clip(sure, 0.02, 0.98)
    return xr.Dataset(
        coords={
            "example": [f"planted/random/{number}" for number in range(n)],
            "layer": ["embed", "block_0", "block_1"],
            "position": ["prompt_last", "answer_0"],
            "row": ("example", np.arange(n)),
            "dataset": ("example", ["planted"] * n),
            "split": ("example", np.where(np.arange(n) % 2, "random", "adversarial")),
            "image_sha256": ("example", [f"{number:064x}" for number in image]),
            "question": ("example", [f"question {number % questions}" for number in range(n)]),
            "gold": ("example", gold),
            "answer": ("example", np.where(correct, gold, other)),
            "first_log_prob": ("example", np.log(certain).astype(np.float32)),
            "first_gap": ("example", np.log(certain / (1 - certain)).astype(np.float32)),
            "first_entropy": ("example", stats.entropy([certain, 1 - certain]).astype(np.float32)),
            "sampled_answer": (("example", "sample"), np.char.add(spelt, drawn.astype(str)).astype(object)),
        },
        attrs={"run": "planted-00000000"},
    )


def with_texts(data: xr.Dataset, **columns: object) -> xr.Dataset:
    """The same examples with other answers, gold answers or splits: one value for all, or one each."""
    n = data.sizes["example"]
    texts = {}
    for name, given in columns.items():
        column = np.empty(n, object)
        column[:] = given
        texts[name] = ("example", column)
    return data.assign_coords(texts)
