"""One batch through the model: the prefix once per image, every question's suffix, the greedy answer token by token.

The decoder is causal, so what lies before the question is computed once and its key-value cache repeated. Suffixes are
padded on the left: the last column is every example's `prompt_last`. Answer tokens are captured as they are decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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

    Raises VlmlakeError if the prefixes differ in length or a residual stream is not finite.
    """
    splits = {prompt.split for prompt in prompts}
    if len(splits) != 1:
        raise VlmlakeError(f"prefixes of one batch have the lengths {sorted(splits)}: expected one length")
    split = splits.pop()
    device = family.device
    first_of = [prefix_of.index(number) for number in range(len(images))]
    prefix_ids = torch.from_numpy(np.stack([prompts[index].ids[:split] for index in first_of])).long().to(device)
    with recording(family, attention=False) as prefix:
        cache = family.model(
            input_ids=prefix_ids, **family.stack_images(images), use_cache=True, logits_to_keep=1
        ).past_key_values
    cache.batch_select_indices(torch.tensor(prefix_of, device=device))

    ids, seen = _left_padded([prompt.ids[split:] for prompt in prompts], pad=family.tokenizer.pad_token_id or 0)
    width = ids.shape[1]
    tokens = torch.from_numpy(ids).long().to(device)
    mask = torch.cat([torch.ones(len(prompts), split, dtype=torch.long), torch.from_numpy(seen)], dim=1).to(device)
    states: list[np.ndarray] = []
    attention: list[np.ndarray] = []
    logits: list[np.ndarray] = []
    chosen: list[np.ndarray] = []
    log_probs: list[np.ndarray] = []
    running = np.ones(len(prompts), bool)
    while True:
        with recording(family, attention=True) as step:
            scores = (
                family.model(
                    input_ids=tokens,
                    attention_mask=mask,
                    position_ids=(mask.cumsum(-1) - 1).clamp(min=0)[:, -tokens.shape[1] :],
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
                .logits[:, -1]
                .float()
            )
        states.append(step.states.float().cpu().numpy())
        attention.append(step.attention.cpu().numpy())
        logits.append(scores.cpu().numpy())
        if len(chosen) == answer_tokens:
            break
        best = scores.argmax(-1)
        chosen.append(best.cpu().numpy())
        log_probs.append(scores.log_softmax(-1).gather(-1, best[:, None])[:, 0].cpu().numpy())
        running &= ~np.isin(chosen[-1], list(family.end_tokens))
        if not running.any():
            break
        tokens = best[:, None]
        mask = torch.cat([mask, torch.ones_like(tokens)], dim=1)

    streams = np.concatenate(states, axis=2)
    prefix_states = prefix.states.float().cpu().numpy()
    scores_of_steps = np.stack(logits, axis=1)
    if not (np.isfinite(prefix_states).all() and np.isfinite(streams).all()) or np.isnan(scores_of_steps).any():
        raise VlmlakeError("the model's residual stream or logits hold NaN or infinity: load it in a wider dtype")
    return Pass(
        width=width,
        prefix_states=prefix_states,
        states=streams,
        attention=tuple(attention),
        logits=scores_of_steps,
        answers=_answers(np.stack(chosen, axis=1), np.stack(log_probs, axis=1), logits[0], family.end_tokens),
    )


def _left_padded(rows: Sequence[np.ndarray], pad: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows as one matrix, padded on the left, and a matrix of ones where a token is."""
    width = max(len(row) for row in rows)
    ids = np.full((len(rows), width), pad, np.int64)
    seen = np.zeros((len(rows), width), np.int64)
    for number, row in enumerate(rows):
        ids[number, width - len(row) :] = row
        seen[number, width - len(row) :] = 1
    return ids, seen


def _answers(
    chosen: np.ndarray, log_probs: np.ndarray, first_logits: np.ndarray, end_tokens: frozenset[int]
) -> tuple[Answer, ...]:
    """Cut every row after its first end token. chosen, log_probs: [examples, steps]."""
    shifted = first_logits - first_logits.max(-1, keepdims=True)
    normed = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    probabilities = np.exp(normed)
    entropies = -(probabilities * np.where(probabilities > 0, normed, 0)).sum(-1)
    two_largest = np.sort(first_logits, axis=-1)[:, -2:]
    answers = []
    for number, row in enumerate(chosen):
        ends = np.flatnonzero(np.isin(row, list(end_tokens)))
        captured = int(ends[0]) if len(ends) else len(row)
        generated = min(captured + 1, len(row))
        answers.append(
            Answer(
                ids=tuple(row[:generated].tolist()),
                log_probs=tuple(log_probs[number, :generated].tolist()),
                captured=captured,
                first_gap=float(two_largest[number, 1] - two_largest[number, 0]),
                first_entropy=float(entropies[number]),
            )
        )
    return tuple(answers)
