"""One batch through the model: the prefix once per image, every question's suffix, then the answers token by token.

Where the family is causal, what lies before the question is computed once and its key-value cache repeated; else every
prompt goes through whole. The greedy answer is captured as it is decoded; sampled answers are further branches of the
same steps, each seeing the prompt and its own tokens only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from vlmlake.errors import VlmlakeError
from vlmlake.ingest.answers import Answer, Choices
from vlmlake.ingest.arguments import continuation_arguments, on_device, position_ids, prompt_arguments
from vlmlake.ingest.cache import with_room
from vlmlake.ingest.capture import ALL, LAST, Keep, Kept, Wanted, recording
from vlmlake.ingest.columns import Columns, Padded
from vlmlake.ingest.decoding import Decoding
from vlmlake.ingest.families.base import Family, ImageInputs, Prompt
from vlmlake.ingest.host import Host
from vlmlake.store_schema.schema import IMAGE


@dataclass(frozen=True)
class Questions:
    """The questions of one batch. images: one per prefix; prompts, keys: one per question, keys name its image and
    text; prefix_of says which prefix a question continues. blanks: gray images in place of the images, for the
    control.
    """

    images: Sequence[ImageInputs]
    prompts: Sequence[Prompt]
    keys: Sequence[str]
    prefix_of: Sequence[int]
    blanks: Sequence[ImageInputs] | None = None

    def first_of(self, prefix: int) -> Prompt:
        """The prompt of the first question that continues a prefix."""
        return self.prompts[self.prefix_of.index(prefix)]


@dataclass(frozen=True)
class Pass:
    """What the forwards of one batch left, on its way to the host: to be read after `host.wait()`.

    prefix: one row per prefix, its columns `columns.prefix`; its rows' keys are those columns, and the suffix's where
    the prefix is not shared. suffix: one row per question, keys over all columns. steps: one column each, keys over
    all columns and the answer so far. answers: greedy, one per question; samples: the drawn ones. blank: states and
    logits at prompt_last with the gray image.
    """

    columns: Columns
    prefix: Kept
    suffix: Kept
    steps: tuple[Kept, ...]
    answers: tuple[Answer, ...]
    samples: tuple[tuple[Answer, ...], ...]
    blank: Kept | None
    host: Host


@torch.inference_mode()
def run_batch(family: Family, wanted: Wanted, asked: Questions, decoding: Decoding, shared: bool) -> Pass:
    """Run one batch. shared: compute each prefix once for all its questions; the family must be causal.

    Raises VlmlakeError if the device's memory is too small or a value is not finite.
    """
    host = Host(wanted.dtype, wanted.weight_dtype)
    columns = Columns.of(asked.prompts)
    run = _Run(family, wanted, host, columns, shared)
    try:
        room = columns.suffix * shared + decoding.answer_tokens * (1 + decoding.samples)
        prompt = run.prompt(asked, run.keeping(), room)
        steps, choices = run.answers(asked, prompt, decoding)
        blank = run.blank(asked) if asked.blanks else None
    except torch.OutOfMemoryError as error:
        raise VlmlakeError(
            f"{family.device} has no memory for {len(asked.prompts)} questions: lower --batch-size (another run begins)"
        ) from error
    forwards = (prompt.prefix, prompt.suffix, *steps, *([blank] if blank else []))
    if not torch.stack([flag.cpu() for kept in forwards for flag in kept.finite]).all() or prompt.logits.isnan().any():
        raise VlmlakeError("the model's residual stream or logits hold NaN or infinity: load it in a wider dtype")
    greedy, samples = choices.answers()
    return Pass(columns, prompt.prefix, prompt.suffix, steps, greedy, samples, blank, host)


@dataclass(frozen=True)
class _Prompted:
    """After the prompts: what was kept, the cache, which columns hold tokens, and the next token's logits, float32."""

    prefix: Kept
    suffix: Kept
    cache: Any
    seen: torch.Tensor
    logits: torch.Tensor


@dataclass(frozen=True)
class _Keeping:
    """What the two forwards over the prompts keep. image_update: whether how far the image tokens move, too."""

    prefix: Keep
    suffix: Keep
    prefix_logits: slice | None
    suffix_logits: slice | None
    image_update: bool


@dataclass(frozen=True)
class _Run:
    family: Family
    wanted: Wanted
    host: Host
    columns: Columns
    shared: bool

    def keeping(self) -> _Keeping:
        """As the plan wants it: all tokens, or the last of the prompt."""
        wanted = self.wanted
        return _Keeping(
            prefix=Keep(
                states=ALL if "prefix_states" in wanted else None,
                rows=ALL if "prefix_attention" in wanted else None,
            ),
            suffix=Keep(
                states=ALL if "hidden_states" in wanted else LAST if "readout_states" in wanted else None,
                rows=ALL if "attention" in wanted else LAST if "readout_attention" in wanted else None,
                writes="attn_write" in wanted or "mlp_write" in wanted,
            ),
            prefix_logits=ALL if "prefix_logits" in wanted else None,
            suffix_logits=ALL if "token_logits" in wanted else LAST if "logits" in wanted else None,
            image_update="image_update" in wanted,
        )

    def prompt(self, asked: Questions, keeping: _Keeping, room: int) -> _Prompted:
        """room: for so many tokens after the prefix, or after the whole prompt where no prefix is shared."""
        pad = self.family.tokenizer.pad_token_id or 0
        suffixes = self.columns.suffixes(asked.prompts, pad)
        if not self.shared:
            whole = self.columns.prefixes(asked.prompts, pad).beside(suffixes)
            return self._whole(asked.images, whole, keeping, room)
        first = [asked.first_of(prefix) for prefix in range(len(asked.images))]
        prefixes = self.columns.prefixes(first, pad)
        keep = Keep(keeping.prefix.states, keeping.prefix.rows, image=self._image(prefixes, keeping))
        prefix, cache, logits = self._prefill(prefixes, asked.images, keep, all_logits=keeping.prefix_logits == ALL)
        prefix = self._with_logits(prefix, logits, keeping.prefix_logits)
        cache = with_room(cache, asked.prefix_of, room)
        seen = np.concatenate([prefixes.seen[list(asked.prefix_of)], suffixes.seen], axis=1)
        with recording(self.family, self.wanted.layers, keeping.suffix, self.host) as suffix:
            logits = self.family.model(
                **continuation_arguments(self.family, suffixes, seen, cache),
                logits_to_keep=0 if keeping.suffix_logits == ALL else 1,
            ).logits
        suffix = self._with_logits(suffix, logits, keeping.suffix_logits)
        return _Prompted(prefix, suffix, cache, on_device(self.family, seen).bool(), logits[:, -1].float())

    def _whole(self, images: Sequence[ImageInputs], padded: Padded, keeping: _Keeping, room: int) -> _Prompted:
        """Prompts without a shared prefix; the same columns, in one forward."""
        split = self.columns.prefix
        keep = Keep(
            states=keeping.prefix.states or _from(keeping.suffix.states, split),
            rows=keeping.prefix.rows or _from(keeping.suffix.rows, split),
            writes=keeping.suffix.writes,
            image=self._image(padded, keeping),
        )
        every_logit = ALL in (keeping.prefix_logits, keeping.suffix_logits)
        whole, cache, logits = self._prefill(padded, images, keep, every_logit)
        prefix, suffix = whole.split(split, keep, keeping.suffix)
        if every_logit:
            prefix = self._with_logits(prefix, logits[:, :split], keeping.prefix_logits)
        return _Prompted(
            prefix,
            self._with_logits(suffix, logits[:, split:] if every_logit else logits, keeping.suffix_logits),
            with_room(cache, range(len(padded.ids)), room) if room else cache,
            on_device(self.family, padded.seen).bool(),
            logits[:, -1].float(),
        )

    def _prefill(
        self, padded: Padded, images: Sequence[ImageInputs], keep: Keep, all_logits: bool
    ) -> tuple[Kept, Any, torch.Tensor]:
        with recording(self.family, self.wanted.layers, keep, self.host) as kept:
            out = self.family.model(
                **prompt_arguments(self.family, padded, images),
                use_cache=True,
                logits_to_keep=0 if all_logits else 1,
            )
        return kept, out.past_key_values, out.logits

    def answers(self, asked: Questions, prompt: _Prompted, decoding: Decoding) -> tuple[tuple[Kept, ...], Choices]:
        """Decode until every branch has ended or reached its length; only the greedy branch is kept."""
        uniforms = np.stack([decoding.uniforms(key) for key in asked.keys])
        choices = Choices(self.family.end_tokens, decoding, prompt.logits, torch.from_numpy(uniforms))
        position = np.array([prompt.next_position for prompt in asked.prompts])
        axes = len(asked.prompts[0].positions)
        branch_of = torch.empty(0, dtype=torch.long, device=prompt.seen.device)
        keep_logits = ALL if "logits" in self.wanted or "token_logits" in self.wanted else None
        steps = []
        while (branches := choices.running()) is not None:
            places = np.broadcast_to(position[None, :, None], (axes, len(position), len(branches)))
            branch_of = torch.cat([branch_of, branches])
            own = branches[:, None] == branch_of
            mask = torch.cat(
                [
                    prompt.seen[:, None, :].expand(-1, len(branches), -1),
                    own.expand(len(position), -1, -1),
                ],
                dim=-1,
            )
            keep = self._step_keep(branch_of, branched=decoding.samples > 0)
            with recording(self.family, self.wanted.layers, keep, self.host) as step:
                logits = self.family.model(
                    input_ids=choices.last(branches),
                    attention_mask=mask[:, None],
                    position_ids=position_ids(self.family, places),
                    past_key_values=prompt.cache,
                    use_cache=True,
                ).logits.float()
            steps.append(self._with_logits(step, logits[:, :1], keep_logits))
            choices.take(branches, logits)
            position = position + 1
        return tuple(steps), choices

    def _step_keep(self, branch_of: torch.Tensor, branched: bool) -> Keep:
        """The greedy branch, which is the first: its state, and its row over the prompt and its own tokens."""
        one = slice(0, 1)
        rows = "attention" in self.wanted or "readout_attention" in self.wanted
        states = "hidden_states" in self.wanted or "readout_states" in self.wanted
        keys = None
        if branched:
            prompt = torch.arange(self.columns.prefix + self.columns.suffix, device=branch_of.device)
            keys = torch.cat([prompt, len(prompt) + torch.nonzero(branch_of == 0)[:, 0]])
        return Keep(states=one if states else None, rows=one if rows else None, keys=keys)

    def blank(self, asked: Questions) -> Kept:
        """States and logits at prompt_last with gray images; equal ones are computed once where prefixes are shared."""
        assert asked.blanks is not None
        keep = _Keeping(Keep(), Keep(states=LAST), prefix_logits=None, suffix_logits=LAST, image_update=False)
        if self.shared:
            grids = [image.grid for image in asked.blanks]
            distinct = list(dict.fromkeys(grids))
            images = [asked.blanks[grids.index(grid)] for grid in distinct]
            gray = replace(
                asked, images=images, prefix_of=[distinct.index(grids[prefix]) for prefix in asked.prefix_of]
            )
        else:
            gray = replace(asked, images=asked.blanks)
        return self.prompt(gray, keep, room=self.columns.suffix * self.shared).suffix

    def _image(self, padded: Padded, keeping: _Keeping) -> torch.Tensor | None:
        return on_device(self.family, padded.roles == IMAGE) if keeping.image_update else None

    def _with_logits(self, kept: Kept, logits: torch.Tensor, chosen: slice | None) -> Kept:
        return kept if chosen is None else replace(kept, logits=self.host.take(logits[:, chosen]))


def _from(chosen: slice | None, first: int) -> slice | None:
    """Columns of the suffix, counted in the whole."""
    return slice(first, None) if chosen == ALL else chosen
