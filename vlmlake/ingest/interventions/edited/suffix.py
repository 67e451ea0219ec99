"""The route that runs only the blocks which an edit can change: many conditions over one batch, from the residual
stream at the first changed block on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from transformers.cache_utils import DynamicCache

from vlmlake.errors import VlmlakeError
from vlmlake.ingest.arguments import continuation_arguments, on_device, prompt_arguments
from vlmlake.ingest.cache import with_room
from vlmlake.ingest.columns import Columns
from vlmlake.ingest.families.base import Family
from vlmlake.ingest.generation import Questions
from vlmlake.ingest.interventions.edited.calls import BlockCall, call_of_block, run_from
from vlmlake.ingest.interventions.edited.edits import (
    AFTER_BLOCK,
    MLP_OUT,
    RESID,
    Edits,
    Overlay,
    Place,
    Rows,
    Scope,
    edited,
    hooked,
    overlays,
)

Positions = Literal["all", "prompt_last"]
"""Which tokens are edited: every one of the prompt and of the answer, or the one that predicts the answer."""


@dataclass(frozen=True)
class Write:
    """[rows, columns, hidden] each. Their sum leaves the block; in half precision neither can be told from that."""

    onto: torch.Tensor
    written: torch.Tensor


@dataclass(frozen=True)
class Part:
    """Some columns of a batch where a block is reached.

    call: how it is called. seen: [rows, columns], bool, true where a token is. write: what the MLP before it wrote, and
    onto what; None where no block is before, or the store does not tell.
    """

    call: BlockCall
    seen: torch.Tensor
    write: Write | None

    def columns(self, first: int, last: int) -> Part:
        """Those from `first` up to `last`."""
        write = None if self.write is None else Write(self.write.onto[:, first:last], self.write.written[:, first:last])
        return Part(self.call.columns(first, last), self.seen[:, first:last], write)

    def without_write(self) -> Part:
        """The same where no MLP is edited: what it wrote need not be copied for every condition."""
        return Part(self.call, self.seen, None)

    def chosen(self, places: torch.Tensor) -> Part:
        """These rows, each as often as it is named."""
        write = None if self.write is None else Write(self.write.onto[places], self.write.written[places])
        return Part(self.call.chosen(places), self.seen[places], write)


@dataclass(frozen=True)
class Changes:
    """The edits of several conditions, as they are met from a block on. entering: those of what the block before it
    left; within: those of later parts.
    """

    entering: Mapping[Place, Overlay]
    within: Mapping[Place, Overlay]
    number: int

    @classmethod
    def of(cls, family: Family, conditions: Sequence[Edits], block: int) -> Changes:
        """Raises VlmlakeError for an edit that has its effect before the block."""
        for edit in (edit for condition in conditions for edit in condition):
            if edit.first_block < block:
                raise VlmlakeError(f"an edit of {edit.site} of block {edit.block} cannot start from block {block}")
        found = overlays(family, conditions)
        entering = {place: one for place, one in found.items() if place[0] in AFTER_BLOCK and place[1] == block - 1}
        within = {place: one for place, one in found.items() if place not in entering}
        return cls(entering, within, len(conditions))

    def rows_of(self, part: Part, places: torch.Tensor) -> Part:
        """These rows of a part, with what they take."""
        edits_write = any(site == MLP_OUT for site, _ in self.entering)
        return (part if edits_write else part.without_write()).chosen(places)

    def entered(self, part: Part, block: int, scope: Scope) -> BlockCall:
        """The block's call with what was left before it edited."""
        stream = part.call.stream
        if (MLP_OUT, block - 1) in self.entering:
            assert part.write is not None
            stream = part.write.onto + self.entering[MLP_OUT, block - 1].on(part.write.written, scope)
        if (RESID, block - 1) in self.entering:
            stream = self.entering[RESID, block - 1].on(stream, scope)
        return BlockCall(stream, part.call.keywords)


@dataclass(frozen=True)
class Prompted:
    """After the prompts. stream: [conditions x questions, hidden], at prompt_last after the last block. cache: keys and
    values of the blocks that ran under each condition, none where none ran.
    """

    stream: torch.Tensor
    cache: DynamicCache | None


@dataclass(frozen=True)
class Started:
    """One batch of questions, run up to a block; up to the final norm where the block's number is the last's and one.

    prefix: what the questions of an image share, one row an image; None where nothing is shared. suffix: the rest, one
    row a question, whose image is `prefix_of`. cache: keys and values of the blocks before, a row a question, over
    `columns` of which those with tokens are `seen`. room: for so many tokens of an answer, in what is copied anyway.
    """

    family: Family
    block: int
    asked: Questions
    prefix: Part | None
    suffix: Part
    cache: DynamicCache
    seen: torch.Tensor
    room: int

    @property
    def questions(self) -> int:
        return len(self.suffix.seen)

    def logits(self, conditions: Sequence[Edits], positions: Positions) -> torch.Tensor:
        """The first answer token's logits under every condition, [conditions, questions, vocab], float32.

        conditions: edits that have no effect before the block.

        Raises VlmlakeError for an edit that has, or of what the model does not have.
        """
        with torch.inference_mode():
            prompted = self.prompted(Changes.of(self.family, conditions, self.block), positions)
            return self.unembedded(prompted.stream).view(len(conditions), self.questions, -1)

    def unembedded(self, stream: torch.Tensor) -> torch.Tensor:
        """Logits, float32, of the residual stream after the last block."""
        logits: torch.Tensor = self.family.unembedding(self.family.final_norm(stream)).float()
        return logits

    def prompted(self, changes: Changes, positions: Positions) -> Prompted:
        """The prompts run on from the block under all conditions."""
        if self.block == len(self.family.blocks):
            return Prompted(self._nothing_left(changes), None)
        if positions == "all":
            return self._all_tokens(changes, None)
        if not self.family.image_sees_question:
            return self._last_token(changes)
        # Here the tokens before attend to prompt_last, too.
        last = torch.zeros_like(self.suffix.seen)
        last[:, -1] = True
        return self._all_tokens(changes, last)

    def _nothing_left(self, changes: Changes) -> torch.Tensor:
        """No block runs any more, so that no other token counts."""
        rows = Rows.stacked(changes.number, self.questions, self.seen.device)
        width = self.suffix.seen.shape[1]
        last = changes.rows_of(self.suffix.columns(width - 1, width), rows.question)
        return changes.entered(last, self.block, Scope(rows)).stream[:, -1]

    def _all_tokens(self, changes: Changes, where: torch.Tensor | None) -> Prompted:
        """where: [questions, columns of the suffix], the tokens that are edited, or all of them."""
        cache = DynamicCache() if self.prefix is None else self._cache_of_prefix(changes, changes.number)
        rows = Rows.stacked(changes.number, self.questions, self.seen.device)
        scope = Scope(rows, None if where is None else where[rows.question])
        return self._run(changes.rows_of(self.suffix, rows.question), changes, scope, cache)

    def _last_token(self, changes: Changes) -> Prompted:
        """None of the other tokens sees the last."""
        width = self.suffix.seen.shape[1]
        rows = Rows.stacked(changes.number, self.questions, self.seen.device)
        cache = DynamicCache()
        if width > 1 or self.prefix is not None:
            cache = with_room(self._before_last, rows.question.tolist(), 1 + self.room, self.block)
        last = changes.rows_of(self.suffix.columns(width - 1, width), rows.question)
        return self._run(last, changes, Scope(rows), cache)

    @cached_property
    def _before_last(self) -> DynamicCache:
        """Keys and values of all tokens but the last, run on once for all conditions."""
        width = self.suffix.seen.shape[1]
        cache = DynamicCache() if self.prefix is None else self._cache_of_prefix(None, 1)
        if width > 1:
            run_from(self.family, self.block, self.suffix.columns(0, width - 1).call, cache)
        return cache

    def _run(self, part: Part, changes: Changes, scope: Scope, cache: DynamicCache) -> Prompted:
        call = changes.entered(part, self.block, scope)
        with edited(self.family, changes.within, lambda: scope):
            return Prompted(run_from(self.family, self.block, call, cache)[:, -1], cache)

    def _cache_of_prefix(self, changes: Changes | None, times: int) -> DynamicCache:
        """Keys and values of the prefixes, under each of `times` conditions; a row for each condition and question."""
        assert self.prefix is not None
        cache, images = DynamicCache(), len(self.prefix.seen)
        rows = Rows.stacked(times, images, self.seen.device)
        if changes is None:
            run_from(self.family, self.block, self.prefix.call, cache)
        else:
            self._run(changes.rows_of(self.prefix, rows.question), changes, Scope(rows), cache)
        places = [number * images + prefix for number in range(times) for prefix in self.asked.prefix_of]
        return with_room(cache, places, self.suffix.seen.shape[1] + self.room, self.block)

    def part_of_step(self, ids: torch.Tensor, mask: torch.Tensor, positions: Any, cache: DynamicCache) -> Part:
        """One more token of some answers, run up to the block. ids: [rows, 1]. mask: [rows, columns], bool."""
        with _watched_write(self.family, self.block) as write:
            call = call_of_block(
                self.family,
                self.block,
                input_ids=ids,
                attention_mask=mask[:, None, None],
                position_ids=positions,
                **({"past_key_values": cache, "use_cache": True} if self.block else {"use_cache": False}),
            )
        return Part(call, mask[:, -1:], write())

    def step(self, part: Part, changes: Changes, rows: Rows, positions: Positions, cache: DynamicCache) -> torch.Tensor:
        """The same token run on under each row's condition: logits [rows, vocab]; `cache` takes its keys and values."""
        if positions == "prompt_last":
            changes = Changes({}, {}, changes.number)
        if self.block < len(self.family.blocks):
            return self.unembedded(self._run(part, changes, Scope(rows), cache).stream)
        return self.unembedded(changes.entered(part, self.block, Scope(rows)).stream[:, -1])


@torch.inference_mode()
def start(family: Family, asked: Questions, block: int, shared: bool, room: int = 0) -> Started:
    """Run a batch up to a block; up to the final norm for the number after the last block's. shared: the prefix once
    per image. room: for so many tokens of an answer.

    Raises VlmlakeError for a shared prefix of a family whose images see the question, or from block 0 on, before which
    nothing is computed.
    """
    if shared and (family.image_sees_question or block == 0):
        raise VlmlakeError(f"no prefix of {family.model_type} can be shared from block {block} on")
    columns, pad = Columns.of(asked.prompts), family.tokenizer.pad_token_id or 0
    suffixes = columns.suffixes(asked.prompts, pad)
    cache = DynamicCache()
    if not shared:
        whole = columns.prefixes(asked.prompts, pad).beside(suffixes)
        images = [asked.images[prefix] for prefix in asked.prefix_of]
        arguments = prompt_arguments(family, whole, images)
        seen = on_device(family, whole.seen).bool()
        return Started(family, block, asked, None, _part(family, block, seen, arguments, cache), cache, seen, room)
    prefixes = columns.prefixes([asked.first_of(prefix) for prefix in range(len(asked.images))], pad)
    arguments = prompt_arguments(family, prefixes, asked.images)
    first = _part(family, block, on_device(family, prefixes.seen).bool(), arguments, cache)
    both = np.concatenate([prefixes.seen[list(asked.prefix_of)], suffixes.seen], axis=1)
    roomy = with_room(cache, asked.prefix_of, columns.suffix + room)
    arguments = continuation_arguments(family, suffixes, both, roomy)
    second = _part(family, block, on_device(family, suffixes.seen).bool(), arguments, roomy)
    return Started(family, block, asked, first, second, roomy, on_device(family, both).bool(), room)


def _part(family: Family, block: int, seen: torch.Tensor, arguments: dict[str, Any], cache: DynamicCache) -> Part:
    if block:
        arguments = {**arguments, "past_key_values": cache, "use_cache": True}
    with _watched_write(family, block) as write:
        call = call_of_block(family, block, **arguments)
    return Part(call, seen, write())


@contextmanager
def _watched_write(family: Family, block: int) -> Iterator[Callable[[], Write | None]]:
    """What the MLP of the block before this one writes as it runs, and onto what."""
    onto: list[torch.Tensor] = []
    written: list[torch.Tensor] = []

    def before(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        onto.append(arguments[0])

    with ExitStack() as stack:
        if block:
            stack.callback(family.mlp_norms[block - 1].register_forward_pre_hook(before).remove)
            stack.callback(hooked(family, (MLP_OUT, block - 1), written.append))
        yield lambda: Write(onto[-1], written[-1]) if written else None
