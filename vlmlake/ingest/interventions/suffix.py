"""The route that runs only the blocks which an edit can change: many conditions over one batch, from the residual
stream before the edited block on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from transformers.cache_utils import DynamicCache

from vlmlake.errors import VlmlakeError
from vlmlake.ingest.arguments import continuation_arguments, on_device, prompt_arguments
from vlmlake.ingest.cache import with_room
from vlmlake.ingest.columns import Columns
from vlmlake.ingest.families.base import Family
from vlmlake.ingest.generation import Questions
from vlmlake.ingest.interventions.calls import BlockCall, call_of_block, run_from
from vlmlake.ingest.interventions.edits import Condition, edited

Positions = Literal["all", "prompt_last"]
"""Which tokens are edited: all of the prompt, or the one that predicts the answer."""


@dataclass(frozen=True)
class Started:
    """One batch of questions, run up to a block.

    prefix: the block's call over what the questions of an image share, one row an image; None where nothing is shared.
    suffix: over the rest, one row a question, whose image is `prefix_of`. prefix_seen, suffix_seen: [rows, columns],
    bool, true where a token is.
    """

    family: Family
    block: int
    prefix: BlockCall | None
    suffix: BlockCall
    prefix_of: Sequence[int]
    prefix_seen: torch.Tensor
    suffix_seen: torch.Tensor

    def logits(self, conditions: Sequence[Condition], positions: Positions) -> torch.Tensor:
        """The first answer token's logits under every condition, [conditions, questions, vocab], float32.

        conditions: edits of this block or later ones.

        Raises VlmlakeError for an edit of an earlier block, or of what the model does not have.
        """
        early = [edit for condition in conditions for edit in condition if edit.block < self.block]
        if early:
            raise VlmlakeError(f"an edit of block {early[0].block} cannot start from block {self.block}")
        with torch.inference_mode():
            stream = self._after_last_block(conditions, positions)
            logits: torch.Tensor = self.family.unembedding(self.family.final_norm(stream)).float()
        return logits.view(len(conditions), len(self.suffix.stream), -1)

    def _after_last_block(self, conditions: Sequence[Condition], positions: Positions) -> torch.Tensor:
        """The residual stream at prompt_last, [conditions x questions, hidden]."""
        if positions == "all":
            return self._all_tokens(conditions, self.suffix_seen)
        if not self.family.image_sees_question:
            return self._last_token(conditions)
        # Here the tokens before attend to prompt_last, too.
        last = torch.zeros_like(self.suffix_seen)
        last[:, -1] = True
        return self._all_tokens(conditions, last)

    def _all_tokens(self, conditions: Sequence[Condition], where: torch.Tensor) -> torch.Tensor:
        times, cache = len(conditions), None
        if self.prefix is not None:
            cache = self._cache_of_prefix(conditions, times)
        with edited(self.family, conditions, where):
            return run_from(self.family, self.block, self.suffix.repeated(times), cache)[:, -1]

    def _last_token(self, conditions: Sequence[Condition]) -> torch.Tensor:
        """All other tokens are run once, for all conditions: none of them sees the last."""
        times, columns = len(conditions), self.suffix.stream.shape[1]
        before = self._cache_of_prefix([()], 1) if self.prefix is not None else DynamicCache()
        if columns > 1:
            run_from(self.family, self.block, self.suffix.columns(0, columns - 1), before)
        rows = list(range(len(self.suffix.stream))) * times
        cache = with_room(before, rows, 1, self.block) if columns > 1 or self.prefix is not None else None
        last = self.suffix.columns(columns - 1, columns).repeated(times)
        with edited(self.family, conditions, self.suffix_seen[:, -1:]):
            return run_from(self.family, self.block, last, cache)[:, -1]

    def _cache_of_prefix(self, conditions: Sequence[Condition], times: int) -> DynamicCache:
        """Keys and values of the prefixes under every condition, a row for each condition and question."""
        assert self.prefix is not None
        cache = DynamicCache()
        with edited(self.family, conditions, self.prefix_seen):
            run_from(self.family, self.block, self.prefix.repeated(times), cache)
        images = len(self.prefix.stream)
        rows = [number * images + prefix for number in range(times) for prefix in self.prefix_of]
        return with_room(cache, rows, self.suffix.stream.shape[1], self.block)


@torch.inference_mode()
def start(family: Family, asked: Questions, block: int, shared: bool) -> Started:
    """Run a batch up to a block. shared: the prefix once per image.

    Raises VlmlakeError for a shared prefix of a family whose images see the question, or from block 0 on, before which
    nothing is computed.
    """
    if shared and (family.image_sees_question or block == 0):
        raise VlmlakeError(f"no prefix of {family.model_type} can be shared from block {block} on")
    columns, pad = Columns.of(asked.prompts), family.tokenizer.pad_token_id or 0
    suffixes = columns.suffixes(asked.prompts, pad)
    if not shared:
        whole = columns.prefixes(asked.prompts, pad).beside(suffixes)
        images = [asked.images[prefix] for prefix in asked.prefix_of]
        call = call_of_block(family, block, **prompt_arguments(family, whole, images), use_cache=False)
        tokens = on_device(family, whole.seen).bool()
        return Started(family, block, None, call, asked.prefix_of, tokens[:, :0], tokens)
    prefixes = columns.prefixes([asked.first_of(prefix) for prefix in range(len(asked.images))], pad)
    cache = DynamicCache()
    arguments = prompt_arguments(family, prefixes, asked.images)
    first = call_of_block(family, block, **arguments, past_key_values=cache, use_cache=True)
    seen = np.concatenate([prefixes.seen[list(asked.prefix_of)], suffixes.seen], axis=1)
    roomy = with_room(cache, asked.prefix_of, columns.suffix)
    second = call_of_block(family, block, **continuation_arguments(family, suffixes, seen, roomy))
    prefix_seen, suffix_seen = (on_device(family, part.seen).bool() for part in (prefixes, suffixes))
    return Started(family, block, first, second, asked.prefix_of, prefix_seen, suffix_seen)
