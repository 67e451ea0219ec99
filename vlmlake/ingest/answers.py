"""Answers as they grow: one greedy and K drawn branches of every question, in step."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vlmlake.ingest.decoding import Decoding, draw_from_nucleus


@dataclass(frozen=True)
class Answer:
    """ids, log_probs (natural log, of the model's own distribution): the tokens, the end token included where one came.

    captured: how many there are without the end token. first_gap: between the two largest logits of the first token;
    first_entropy: of its distribution, in nats.
    """

    ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    captured: int
    first_gap: float
    first_entropy: float

    @property
    def finish(self) -> str:
        return "length" if self.captured == len(self.ids) else "stop"


class Choices:
    """The tokens chosen so far. Branch 0 of a question takes the likeliest token, the others draw theirs."""

    def __init__(
        self, end_tokens: frozenset[int], decoding: Decoding, logits: torch.Tensor, uniforms: torch.Tensor
    ) -> None:
        """logits: [questions, vocab], float32, after the prompt. uniforms: [questions, samples, answer tokens]."""
        self._decoding, self._uniforms = decoding, uniforms.to(logits.device)
        self._ends = torch.tensor(sorted(end_tokens), device=logits.device)
        log_probs = logits.log_softmax(-1)
        two = logits.topk(2).values
        self._gaps = two[:, 0] - two[:, 1]
        probabilities = log_probs.exp()
        self._entropies = -torch.special.xlogy(probabilities, probabilities).sum(-1)
        drawn = self._draw(logits, self._uniforms[:, :, 0])
        first = torch.cat([logits.argmax(-1, keepdim=True), drawn], dim=1)
        self._ids = first[:, :, None]
        self._log_probs = log_probs.gather(1, first)[:, :, None]
        self._ended = torch.isin(first, self._ends)
        self._forwards = 0

    def running(self) -> torch.Tensor | None:
        """Branches whose last token must go through the model: the greedy one to be captured and continued, the others
        to be continued. None once there is nothing left to do.
        """
        length, limit = self._ids.shape[2], self._decoding.answer_tokens
        if self._forwards == length:
            return None
        greedy, drawn = (not bool(ended.all()) for ended in (self._ended[:, :1], self._ended[:, 1:]))
        drawn = drawn and length < limit
        if not greedy and not drawn:
            return None
        return torch.arange(1 + self._decoding.samples * drawn, device=self._ids.device)

    def last(self, branches: torch.Tensor) -> torch.Tensor:
        """The last token of each branch, [questions, branches]."""
        return self._ids[:, branches, -1]

    def take(self, branches: torch.Tensor, logits: torch.Tensor) -> None:
        """Choose the next tokens after those given by `last`. logits: [questions, branches, vocab], float32."""
        self._forwards += 1
        length = self._ids.shape[2]
        if length == self._decoding.answer_tokens:
            return
        ids = torch.full_like(self._ids[:, :, -1], int(self._ends[0]))
        ids[:, 0] = logits[:, 0].argmax(-1)
        if len(branches) > 1:
            uniforms = self._uniforms[:, :, length].reshape(-1, 1)
            ids[:, 1:] = self._draw(logits[:, 1:].flatten(0, 1), uniforms).view(len(ids), -1)
        log_probs = torch.zeros_like(self._log_probs[:, :, -1])
        chosen = ids[:, branches, None]
        log_probs[:, branches] = (logits.gather(2, chosen) - logits.logsumexp(-1, keepdim=True))[..., 0]
        self._ids = torch.cat([self._ids, ids[:, :, None]], dim=2)
        self._log_probs = torch.cat([self._log_probs, log_probs[:, :, None]], dim=2)
        self._ended |= torch.isin(ids, self._ends)

    def answers(self) -> tuple[tuple[Answer, ...], tuple[tuple[Answer, ...], ...]]:
        """The greedy answer of every question, and its drawn ones, each cut after its first end token."""
        ids, log_probs = self._ids.tolist(), self._log_probs.tolist()
        ends = torch.isin(self._ids, self._ends).tolist()
        gaps, entropies = self._gaps.tolist(), self._entropies.tolist()
        rows = [
            [
                _cut(ids[question][branch], log_probs[question][branch], ends[question][branch], gap, entropy)
                for branch in range(len(ids[question]))
            ]
            for question, (gap, entropy) in enumerate(zip(gaps, entropies, strict=True))
        ]
        return tuple(row[0] for row in rows), tuple(tuple(row[1:]) for row in rows)

    def _draw(self, logits: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
        if not self._decoding.samples:
            return torch.empty((len(logits), 0), dtype=torch.long, device=logits.device)
        return draw_from_nucleus(logits, uniforms, self._decoding.temperature, self._decoding.top_p)


def _cut(ids: list[int], log_probs: list[float], ends: list[bool], gap: float, entropy: float) -> Answer:
    captured = ends.index(True) if True in ends else len(ids)
    return Answer(tuple(ids[: captured + 1]), tuple(log_probs[: captured + 1]), captured, gap, entropy)
