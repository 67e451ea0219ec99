"""Which token comes next: the likeliest one, and seeded draws from the nucleus."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch

from vlmlake.errors import VlmlakeError

SHORT_LIST = 1024


@dataclass(frozen=True)
class Decoding:
    """How answers are made: one greedy answer, and `samples` drawn ones, of at most `answer_tokens` tokens each.

    temperature, top_p: of the draws (Holtzman et al., ICLR 2020). seed: with an example's image and question it decides
    its draws, whatever batch the example is in.
    """

    answer_tokens: int = 16
    samples: int = 0
    temperature: float = 0.7
    top_p: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        if self.answer_tokens < 1:
            raise VlmlakeError(f"answer tokens is {self.answer_tokens}, expected at least 1")
        if self.samples < 0:
            raise VlmlakeError(f"samples is {self.samples}, expected 0 or more")
        if not 0 < self.temperature < float("inf"):
            raise VlmlakeError(f"temperature is {self.temperature}, expected a number above 0")
        if not 0 < self.top_p <= 1:
            raise VlmlakeError(f"top-p is {self.top_p}, expected a number above 0 and at most 1")

    def uniforms(self, key: str) -> np.ndarray:
        """The random numbers of one example, in [0, 1): [samples, answer tokens], float32. key: image and question."""
        digest = hashlib.sha256(f"{self.seed}\n{key}".encode()).digest()
        draws = np.random.default_rng(int.from_bytes(digest[:16])).random((self.samples, self.answer_tokens))
        return draws.astype(np.float32)


def draw_from_nucleus(logits: torch.Tensor, uniforms: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """Tokens drawn from the smallest set of likeliest tokens whose probabilities reach `top_p`.

    logits: [rows, vocab], float32. uniforms: [rows, draws] in [0, 1): each is looked up in the cumulative distribution,
    likeliest token first, so that equal numbers give equal tokens. Returns [rows, draws], int64.
    """
    probabilities, order = _likeliest((logits / temperature).softmax(-1), top_p)
    reached = probabilities.cumsum(-1)
    inside = ((reached - probabilities) < top_p).sum(-1, keepdim=True)
    inside = inside.clamp(min=1)
    target = uniforms * reached.gather(-1, inside - 1)
    place = torch.searchsorted(reached, target, right=True).minimum(inside - 1)
    return order.gather(-1, place)


def _likeliest(probabilities: torch.Tensor, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities and their tokens, likeliest first, equal ones by token: as many as the nucleus can need.

    The first SHORT_LIST hold the nucleus of a model that is sure of something; only else is the vocabulary sorted.
    """
    if probabilities.shape[-1] > SHORT_LIST:
        order = probabilities.topk(SHORT_LIST).indices.sort(-1).values
        short, places = probabilities.gather(-1, order).sort(dim=-1, descending=True, stable=True)
        if (short.sum(-1) >= top_p).all():
            return short, order.gather(-1, places)
    ordered: tuple[torch.Tensor, torch.Tensor] = probabilities.sort(dim=-1, descending=True, stable=True)
    return ordered
