"""A made-up study at a real one's shape: answers, residual streams and attention, seeded, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.ndimage import gaussian_filter

SYSTEM_TOKENS = 4
QUESTION_TOKENS = 15
YES_NO = ("Yes", "No", " Yes", " No", "yes", "no", " yes", " no", "YES", "NO")
"""The first token ids' texts."""
SHARE_RIGHT, IMAGE_SHARE = 0.75, 0.15
"""Of the answers; and of the variance of what decides them, that which all questions of an image have in common."""
APART = 2.7
"""Standard deviations between right and wrong answers in the last layer, along all latent variables together."""
MEMORY = 0.9
"""Correlation of the latent variables of neighbouring layers."""
FLOOR = 0.3
"""Standard deviation of what no other dimension knows of."""
ROGUE, ROGUE_SCALE = 4, 50.0
"""Dimensions of far larger scale than the others, as trained models have them."""
POOL = 128
"""Attention rows that a block's heads draw from."""


@dataclass(frozen=True)
class Shape:
    """questions: an image's. rank: of the latent variables behind a layer. batch: images that are written together."""

    images: int
    questions: int
    blocks: int
    heads: int
    hidden: int
    grid: int
    vocabulary: int
    rank: int
    batch: int

    @property
    def examples(self) -> int:
        return self.images * self.questions

    @property
    def layers(self) -> int:
        return self.blocks + 1

    @property
    def prefix_tokens(self) -> int:
        return SYSTEM_TOKENS + self.grid**2

    @property
    def tokens(self) -> int:
        """Of the question and its answer, which has one."""
        return QUESTION_TOKENS + 1


@dataclass(frozen=True)
class Study:
    """What is known of every example, and what its batches hold."""

    shape: Shape

    @cached_property
    def image(self) -> np.ndarray:
        """[n], int: the image of each example."""
        return np.repeat(np.arange(self.shape.images), self.shape.questions)

    @cached_property
    def correct(self) -> np.ndarray:
        """[n], bool."""
        draw = np.random.default_rng(1)
        own, shared = draw.standard_normal(self.shape.examples), draw.standard_normal(self.shape.images)
        ease = np.sqrt(1 - IMAGE_SHARE) * own + np.sqrt(IMAGE_SHARE) * shared[self.image]
        right: np.ndarray = ease > np.quantile(ease, 1 - SHARE_RIGHT)
        return right

    @cached_property
    def gold(self) -> np.ndarray:
        """[n], bool, true for yes: every second question of an image, as in POPE."""
        return np.arange(self.shape.examples) % 2 == 0

    @cached_property
    def answer(self) -> np.ndarray:
        """[n], bool, true for yes."""
        return self.gold == self.correct

    @cached_property
    def gap(self) -> np.ndarray:
        """[n], logits between the answer's first token and the next best, larger where the answer is right."""
        draw = np.random.default_rng(2).standard_normal(self.shape.examples)
        return np.exp(0.5 * draw + 0.4 * self.correct)

    @cached_property
    def unembedding(self) -> np.ndarray:
        """[vocabulary, hidden], float16."""
        size = (self.shape.vocabulary, self.shape.hidden)
        values = np.random.default_rng(3).standard_normal(size, np.float32)
        values *= np.float32(0.02)
        return values.astype(np.float16)

    @cached_property
    def final_norm(self) -> np.ndarray:
        """[hidden], float16; small where the dimensions are large."""
        scale = 1 + 0.1 * np.random.default_rng(4).standard_normal(self.shape.hidden)
        scale[self._rogue] = 1 / ROGUE_SCALE
        return scale.astype(np.float16)

    def batches(self) -> Iterator[slice]:
        """The examples of each."""
        size = self.shape.batch * self.shape.questions
        for start in range(0, self.shape.examples, size):
            yield slice(start, min(start + size, self.shape.examples))

    def states(self, part: slice) -> np.ndarray:
        """Of these examples the residual stream at prompt_last, float16 [example, layer, hidden].

        Latent variables of decaying variance, mixed by one matrix, wander from layer to layer. Some of their variance
        is the image's; correctness shows in many of the weak ones, more with every block; the answer itself shows along
        the unembeddings of yes and no.
        """
        shape, draw = self.shape, np.random.default_rng([5, part.start])
        image = np.unique(self.image[part], return_inverse=True)[1]
        told = (self.correct[part] - np.float32(SHARE_RIGHT))[:, None] * self._signal
        said = np.where(self.answer[part], 1, -1).astype(np.float32)[:, None] * self._yes_minus_no
        latent = np.empty((len(image), shape.layers, shape.rank), np.float32)
        for layer in range(shape.layers):
            own = draw.standard_normal((len(image), shape.rank), np.float32)
            shared = draw.standard_normal((image.max() + 1, shape.rank), np.float32)[image]
            new = np.float32(np.sqrt(1 - IMAGE_SHARE)) * own + np.float32(np.sqrt(IMAGE_SHARE)) * shared
            before, share = (latent[:, layer - 1], MEMORY) if layer else (0, 0.0)
            latent[:, layer] = np.float32(share) * before + np.float32(np.sqrt(1 - share**2)) * new
        strengths = self._strengths[:, None]
        mixed = ((latent + strengths * told[:, None]) * self._deviations).reshape(-1, shape.rank) @ self._mixing
        states = mixed.reshape(len(image), shape.layers, shape.hidden)
        noise = draw.standard_normal(states.shape, np.float32)
        noise *= np.float32(FLOOR)
        states += noise
        states += strengths * said[:, None]
        states += self._means
        states[..., self._rogue] *= ROGUE_SCALE
        states *= self._scales[:, None]
        return states.astype(np.float16)

    def attention(self, part: slice) -> np.ndarray:
        """Of these examples the softmax rows of prompt_last over the prefix, float16 [example, block, head, token].

        Each head draws one of its block's rows; all rows of an example are moved over the grid by the same step.
        """
        shape, draw = self.shape, np.random.default_rng([6, part.start])
        rows = draw.integers(POOL, size=(part.stop - part.start, shape.blocks, shape.heads))
        values = self._pool[np.arange(shape.blocks)[:, None], rows]
        for example, step in enumerate(draw.integers(shape.grid, size=(len(rows), 2))):
            patches = values[example, ..., SYSTEM_TOKENS:]
            grid = patches.reshape(*patches.shape[:-1], shape.grid, shape.grid)
            patches[:] = np.roll(grid, step, axis=(-2, -1)).reshape(patches.shape)
        return values

    @cached_property
    def _pool(self) -> np.ndarray:
        """[block, row, token], float16, each row's sum below 1: the question's tokens have the rest.

        Rows of a block look at places of their own and at some that they have in common, in later blocks more sharply.
        """
        shape, draw = self.shape, np.random.default_rng(7)
        sharpness = np.linspace(0.5, 3.0, shape.blocks)[:, None, None]
        common, own = self._fields(draw, (shape.blocks, 1)), self._fields(draw, (shape.blocks, POOL))
        logits = sharpness * (0.7 * common + 0.5 * own + 0.5 * draw.standard_normal(own.shape))
        sink = np.log(shape.grid**2) + draw.normal(1.0, 0.5, size=(shape.blocks, POOL, 1))
        others = draw.normal(0.0, 1.0, size=(shape.blocks, POOL, SYSTEM_TOKENS - 1))
        weights = np.exp(np.concatenate([sink, others, logits], axis=-1))
        kept = draw.uniform(0.5, 0.9, size=(shape.blocks, POOL, 1))
        found: np.ndarray = (weights / weights.sum(-1, keepdims=True) * kept).astype(np.float16)
        return found

    def _fields(self, draw: np.random.Generator, count: tuple[int, int]) -> np.ndarray:
        """Smooth random fields of unit variance over the grid, [*count, token]."""
        noise = draw.standard_normal((*count, self.shape.grid, self.shape.grid))
        smooth = gaussian_filter(noise, sigma=1.5, axes=(2, 3), mode="wrap").reshape(*count, -1)
        found: np.ndarray = smooth / smooth.std(-1, keepdims=True)
        return found

    @cached_property
    def _strengths(self) -> np.ndarray:
        """[layer], how far correctness and the answer have come: from almost nothing to 1."""
        at = np.linspace(-3.0, 3.0, self.shape.layers)
        return (1 / (1 + np.exp(-1.5 * at))).astype(np.float32)

    @cached_property
    def _deviations(self) -> np.ndarray:
        """[latent], standard deviations: the k-th variance is as 1 / k, together 1 in every dimension."""
        variances = 1 / np.arange(1, self.shape.rank + 1)
        return np.sqrt(variances / variances.sum()).astype(np.float32)

    @cached_property
    def _signal(self) -> np.ndarray:
        """[latent], how many of its standard deviations right and wrong answers are apart."""
        signal = np.zeros(self.shape.rank, np.float32)
        weak = signal[10::20]
        weak[:] = APART / np.sqrt(len(weak))
        return signal

    @cached_property
    def _mixing(self) -> np.ndarray:
        draw = np.random.default_rng(8)
        return draw.standard_normal((self.shape.rank, self.shape.hidden), np.float32)

    @cached_property
    def _yes_minus_no(self) -> np.ndarray:
        direction = self.unembedding[0].astype(np.float32) - self.unembedding[1]
        found: np.ndarray = 0.2 * np.sqrt(self.shape.hidden) * direction / np.linalg.norm(direction)
        return found

    @cached_property
    def _means(self) -> np.ndarray:
        draw = np.random.default_rng(9)
        return 0.5 * draw.standard_normal((self.shape.layers, self.shape.hidden), np.float32)

    @cached_property
    def _scales(self) -> np.ndarray:
        """[layer]: the residual stream grows."""
        return np.geomspace(0.05, 2.0, self.shape.layers, dtype=np.float32)

    @cached_property
    def _rogue(self) -> np.ndarray:
        return np.random.default_rng(10).choice(self.shape.hidden, ROGUE, replace=False)
