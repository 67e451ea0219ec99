"""One batch through the model: the prefix once per image, every question's suffix, the greedy answer token by token.

The decoder is causal, so what lies before the question is computed once and its key-value cache repeated. Suffixes are
padded on the left: the last column is every example's `prompt_last`. Answer tokens are captured as they are decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vlmlake.errors import VlmlakeError
from vlmlake.ingest.capture import recording
from vlmlake.ingest.families.base import Family, ImageInputs, Prompt


@dataclass(frozen=True)
class Answer:
    """A greedy answer. ids, log_probs (natural log): the generated tokens, the end token included where one came.

    captured: how many of them have states, all but the end token. first_gap: between the two largest logits of the
    first token; first_entropy: of its distribution, in nats.
    """

    ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    captured: int
    first_gap: float
    first_entropy: float

    @property
    def finish(self) -> str:
        return "length" if self.captured == len(self.ids) else "stop"


@dataclass(frozen=True)
class Pass:
    """What the forwards of one batch left, on the CPU; `width` is the padded length of the suffixes.

    prefix_states: [prefixes, layers, prefix tokens, hidden]. states: [examples, layers, width + steps, hidden].
    attention: first the rows of the suffixes [examples, blocks, heads, width, keys], then one such array per decoded
    token with one query and one key more each time; keys run over prefix, padded suffix, answer.
    logits: [examples, 1 + steps, vocab] at prompt_last and at every decoded token. Floats are float32.
    """

    width: int
    prefix_states: np.ndarray
    states: np.ndarray
    attention: tuple[np.ndarray, ...]
    logits: np.ndarray
    answers: tuple[Answer, ...]


@torch.inference_mode()
def run_batch(
    family: Family,
    images: Sequence[ImageInputs],
    prompts: Sequence[Prompt],
    prefix_of: Sequence[int],
    answer_tokens: int,
) -> Pass:
    """Run one batch.

    images: one per prefix. prompts: one per example; prefix_of says which image each is about. Prefixes of a batch have
    one length. answer_tokens: generate at most so many.

    Raises VlmlakeError if the prefixes differ in length, the device's memory is too small, or a value is not finite.
    """
    splits = {prompt.split for prompt in prompts}
    if len(splits) != 1:
        raise VlmlakeError(f"prefixes of one batch have the lengths {sorted(splits)}: expected one length")
    try:
        prefix_states, cache = _run_prefixes(family, images, prompts, prefix_of)
        steps = _run_suffixes(family, prompts, cache, answer_tokens)
    except torch.OutOfMemoryError as error:
        raise VlmlakeError(f"{family.device} has no memory for {len(prompts)} examples: lower --batch-size") from error
    states = np.concatenate([step.states for step in steps], axis=2)
    logits = np.stack([step.logits for step in steps], axis=1)
    if not (np.isfinite(prefix_states).all() and np.isfinite(states).all()) or np.isnan(logits).any():
        raise VlmlakeError("the model's residual stream or logits hold NaN or infinity: load it in a wider dtype")
    return Pass(
        width=steps[0].states.shape[2],
        prefix_states=prefix_states,
        states=states,
        attention=tuple(step.attention for step in steps),
        logits=logits,
        answers=_answers(logits[:, :answer_tokens], family.end_tokens),
    )


@dataclass(frozen=True)
class _Step:
    """One forward, of the padded suffixes or of one token each. Arrays as in Pass, with one position of logits."""

    states: np.ndarray
    attention: np.ndarray
    logits: np.ndarray


def _run_prefixes(
    family: Family, images: Sequence[ImageInputs], prompts: Sequence[Prompt], prefix_of: Sequence[int]
) -> tuple[np.ndarray, Any]:
    """Residual streams of every prefix, and the key-value cache repeated for the examples that continue it."""
    first_of = [prefix_of.index(number) for number in range(len(images))]
    ids = np.stack([prompts[index].ids[: prompts[index].split] for index in first_of])
    with recording(family, attention=False) as prefix:
        cache = family.model(
            input_ids=torch.from_numpy(ids).long().to(family.device),
            **family.stack_images(images),
            use_cache=True,
            logits_to_keep=1,
        ).past_key_values
    cache.batch_select_indices(torch.tensor(prefix_of, device=family.device))
    return prefix.states.float().cpu().numpy(), cache


def _run_suffixes(family: Family, prompts: Sequence[Prompt], cache: Any, answer_tokens: int) -> list[_Step]:
    """The suffixes, then the largest logit's token of every example again and again, until all have ended."""
    split = prompts[0].split
    ids, seen = _left_padded([prompt.ids[split:] for prompt in prompts], pad=family.tokenizer.pad_token_id or 0)
    tokens = torch.from_numpy(ids).long().to(family.device)
    before = torch.ones(len(prompts), split, dtype=torch.long)
    mask = torch.cat([before, torch.from_numpy(seen)], dim=1).to(family.device)
    steps = [_step(family, tokens, mask, cache)]
    running = np.ones(len(prompts), bool)
    for _ in range(answer_tokens):
        best = steps[-1].logits.argmax(-1)
        running &= ~np.isin(best, list(family.end_tokens))
        if not running.any():
            break
        tokens = torch.from_numpy(best)[:, None].to(family.device)
        mask = torch.cat([mask, torch.ones_like(tokens)], dim=1)
        steps.append(_step(family, tokens, mask, cache))
    return steps


def _step(family: Family, tokens: torch.Tensor, mask: torch.Tensor, cache: Any) -> _Step:
    with recording(family, attention=True) as record:
        logits = family.model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0)[:, -tokens.shape[1] :],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
    return _Step(record.states.float().cpu().numpy(), record.attention.cpu().numpy(), logits.float().cpu().numpy())


def _left_padded(rows: Sequence[np.ndarray], pad: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows as one matrix, padded on the left, and a matrix of ones where a token is."""
    width = max(len(row) for row in rows)
    ids = np.full((len(rows), width), pad, np.int64)
    seen = np.zeros((len(rows), width), np.int64)
    for number, row in enumerate(rows):
        ids[number, width - len(row) :] = row
        seen[number, width - len(row) :] = 1
    return ids, seen


def _answers(logits: np.ndarray, end_tokens: frozenset[int]) -> tuple[Answer, ...]:
    """The largest logit's tokens of every example, cut after its first end token. logits: [examples, steps, vocab]."""
    log_probs = logits - logits.max(-1, keepdims=True)
    log_probs -= np.log(np.exp(log_probs).sum(-1, keepdims=True))
    probabilities = np.exp(log_probs[:, 0])
    entropies = -(probabilities * np.where(probabilities > 0, log_probs[:, 0], 0)).sum(-1)
    two_largest = np.sort(logits[:, 0], axis=-1)[:, -2:]
    answers = []
    for number, chosen in enumerate(logits.argmax(-1)):
        ends = np.flatnonzero(np.isin(chosen, list(end_tokens)))
        captured = int(ends[0]) if len(ends) else len(chosen)
        ids = chosen[: captured + 1]
        answers.append(
            Answer(
                ids=tuple(ids.tolist()),
                log_probs=tuple(log_probs[number, np.arange(len(ids)), ids].tolist()),
                captured=captured,
                first_gap=float(two_largest[number, 1] - two_largest[number, 0]),
                first_entropy=float(entropies[number]),
            )
        )
    return tuple(answers)
