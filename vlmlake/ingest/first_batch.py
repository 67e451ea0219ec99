"""What every pass checks on its first batch, before a batch is written: the capture tells what the model does.

Attention rows sum to 1 and are 0 at masked keys; and one question, with its answer, equals a plain eager forward of it
alone, for which the model makes its masks and positions itself.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from vlmlake.errors import VlmlakeError
from vlmlake.ingest.assemble import Finished
from vlmlake.ingest.capture import ALL, LAST, Keep, Kept, recording
from vlmlake.ingest.families.base import Family
from vlmlake.ingest.host import Host
from vlmlake.store_schema.schema import IMAGE

ROW_SUM_TOLERANCE = 5e-3
"""How far a row's sum may be from 1; float16 rounding of 650 keys stays below 1e-3."""

TOLERANCES = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Largest difference to the eager forward, in units of the compared token's largest value (at least 1)."""

STORED_STEP = {torch.float32: 0.0, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}
"""What storing adds to it."""


def check_first_batch(family: Family, batch: Finished) -> None:
    """Raises VlmlakeError naming the layer, and the head for attention, where the capture is wrong."""
    batch.forward.host.wait()
    _check_rows(batch)
    row = min(range(len(batch.asked.prompts)), key=lambda number: len(batch.asked.prompts[number].ids))
    try:
        _Comparison(family, batch, row).check()
    except torch.OutOfMemoryError as error:
        raise VlmlakeError(
            f"{family.device} has no memory to compare the first batch with an eager forward of one question: lower "
            "--batch-size"
        ) from error


def _check_rows(batch: Finished) -> None:
    prefix, suffix = batch.forward.columns.prefix, batch.forward.columns.suffix
    for layer, kept in batch.forward.suffix.rows.items():
        for row, prompt, _ in batch.rows():
            asked = prompt.suffix_length
            rows = kept[row, :, -asked:].float().numpy()
            queries, keys = rows.shape[-2:]
            masked = np.zeros((queries, keys), bool)
            if not batch.sees_suffix:
                masked = np.triu(np.ones((queries, keys), bool), keys - queries + 1)
            masked[:, : prefix - prompt.split] = True
            masked[:, prefix : prefix + suffix - asked] = True
            _refuse(layer, "does not sum to 1", np.abs(rows.sum(-1) - 1).max(-1), ROW_SUM_TOLERANCE)
            _refuse(layer, "is not 0 at masked keys", np.abs(rows * masked).max((-1, -2)), 0.0)


def _refuse(layer: int, what: str, worst: np.ndarray, tolerance: float) -> None:
    """worst: [heads]."""
    wrong = ~(worst <= tolerance)
    if wrong.any():
        raise VlmlakeError(
            f"attention of block_{layer - 1}, head {int(np.argmax(wrong))} {what} in the first batch: no batch was "
            "written"
        )


class _Comparison:
    """One question of a batch against an eager forward of its prompt and captured answer."""

    def __init__(self, family: Family, batch: Finished, row: int) -> None:
        self.family, self.batch, self.row = family, batch, row
        self.prompt, self.prefix = batch.asked.prompts[row], batch.asked.prefix_of[row]
        self.answer = batch.forward.answers[row]
        self.told = self.answer.captured
        dtype = family.model.dtype
        forward = batch.forward
        self.rows_from = len(self.prompt.ids)
        """The first token whose attention is compared."""
        if forward.suffix.rows:
            self.rows_from -= min(next(iter(forward.suffix.rows.values())).shape[2], self.prompt.suffix_length)
        if forward.prefix.rows:
            self.rows_from = 0
        computed = TOLERANCES.get(dtype, 1e-4)
        self.tolerance = computed + STORED_STEP[batch.wanted.dtype]
        self.row_tolerance = computed + STORED_STEP[batch.wanted.weight_dtype]

    def check(self) -> None:
        plain, writes = self._plain()
        for layer in self.batch.wanted.layers:
            self._check_states(layer, plain.states[layer][0])
            self._check_writes(layer, writes)
            self._check_update(layer, plain)
            if layer in plain.rows:
                self._compare_rows(layer, plain.rows[layer][0])
        assert plain.logits is not None
        self._check_logits(plain.logits[0])

    def _check_states(self, layer: int, whole: torch.Tensor) -> None:
        """whole: [tokens, hidden] of prompt and answer."""
        forward, split, end = self.batch.forward, self.prompt.split, len(self.prompt.ids)
        name = f"layer {layer} of the residual stream"
        if layer in forward.prefix.states:
            self._compare(name, forward.prefix.states[layer][self.prefix, -split:], whole[:split])
        if layer in forward.suffix.states:
            ours = forward.suffix.states[layer][self.row, split - end :]
            self._compare(name, ours, whole[end - len(ours) : end])
        for step, kept in enumerate(forward.steps[: self.told]):
            if layer in kept.states:
                self._compare(name, kept.states[layer][self.row], whole[end + step][None])

    def _check_writes(self, layer: int, plain: Kept) -> None:
        suffix = self.batch.forward.suffix
        for what, ours, theirs in (
            ("attention's write", suffix.attn_write, plain.attn_write),
            ("MLP's write", suffix.mlp_write, plain.mlp_write),
        ):
            if layer in ours:
                self._compare(f"block_{layer - 1}: the {what}", ours[layer][self.row], theirs[layer][0])
        if layer in plain.attn_write:
            step = plain.states[layer][0, -1] - plain.states[layer - 1][0, -1]
            name = f"block_{layer - 1}: what attention and MLP write together"
            scale = plain.states[layer][0, -1].abs().max().clamp(min=1.0)
            self._compare(name, plain.attn_write[layer][0] + plain.mlp_write[layer][0], step, scale)

    def _check_update(self, layer: int, plain: Kept) -> None:
        kept = self.batch.forward.prefix.image_update
        if layer in kept:
            image = torch.from_numpy(np.flatnonzero(self.prompt.roles == IMAGE))
            moved = (plain.states[layer][0, image] - plain.states[layer - 1][0, image]).norm(dim=-1).mean()
            self._compare(f"block_{layer - 1}: the image tokens' update", kept[layer][self.prefix], moved)

    def _check_logits(self, plain: torch.Tensor) -> None:
        """plain: [tokens, vocab] of prompt and answer."""
        forward, split, end = self.batch.forward, self.prompt.split, len(self.prompt.ids)
        if forward.prefix.logits is not None:
            self._compare("logits of the prefix", forward.prefix.logits[self.prefix, -split:], plain[:split])
        if forward.suffix.logits is not None:
            ours = forward.suffix.logits[self.row, split - end :]
            self._compare("logits", ours, plain[end - len(ours) : end])
        for step, kept in enumerate(forward.steps[: self.told]):
            if kept.logits is not None:
                self._compare("logits of the answer", kept.logits[self.row], plain[end + step][None])

    def _plain(self) -> tuple[Kept, Kept]:
        """An eager forward of the whole, and the block writes of one of the prompt alone, whose last token is
        prompt_last.
        """
        model, config = self.family.model, self.family.model.config.text_config
        ours = config._attn_implementation
        layers = tuple(range(len(self.family.blocks) + 1))
        model.set_attn_implementation({"text_config": "eager"})
        try:
            forward = self.batch.forward
            compared = forward.suffix.rows or forward.prefix.rows
            whole = self._forward(layers, Keep(states=ALL), self.told, self.rows_from if compared else None)
            writes = self._forward(layers, Keep(states=LAST, writes=True), 0, None)
        finally:
            model.set_attn_implementation({"text_config": ours})
        return whole, writes

    @torch.inference_mode()
    def _forward(self, layers: tuple[int, ...], keep: Keep, told: int, rows_from: int | None) -> Kept:
        """rows_from: the first query whose attention is kept, none for no attention at all."""
        ids = torch.tensor([[*self.prompt.ids.tolist(), *self.answer.ids[:told]]], device=self.family.device)
        host = Host(torch.float32, torch.float32)
        rows: dict[int, torch.Tensor] = {}
        hooks = [
            attention.register_forward_hook(
                lambda module, arguments, output, layer=number + 1: rows.update(
                    {layer: host.take_weights(output[1][:, :, rows_from:])}
                )
            )
            for number, attention in enumerate(self.family.attentions)
            if rows_from is not None and number + 1 in self.batch.wanted.layers
        ]
        try:
            with recording(self.family, layers, keep, host) as kept:
                logits = self.family.model(
                    input_ids=ids,
                    **self.family.stack_images([self.batch.asked.images[self.prefix]]),
                    **self.family.sequence_arguments(ids, answer=told),
                    use_cache=False,
                ).logits
        finally:
            for hook in hooks:
                hook.remove()
        host.wait()
        return Kept(kept.states, rows, kept.attn_write, kept.mlp_write, logits=logits.float().cpu())

    def _compare(self, name: str, ours: torch.Tensor, theirs: torch.Tensor, scale: torch.Tensor | None = None) -> None:
        """scale: what a difference is measured by, the token's largest value unless given."""
        if scale is None:
            scale = theirs.abs().amax(-1, keepdim=True).clamp(min=1.0)
        difference = float(((ours.float() - theirs).abs() / scale).max())
        if not difference <= self.tolerance:
            raise VlmlakeError(
                f"{name} differs from an eager forward by {difference:.2g} of its largest value in the first batch: "
                "no batch was written"
            )

    def _compare_rows(self, layer: int, eager: torch.Tensor) -> None:
        """eager: [heads, tokens from `rows_from` on, tokens] of prompt and answer."""
        split, asked = self.prompt.split, self.prompt.suffix_length
        columns = self.batch.forward.columns
        if layer in self.batch.forward.prefix.rows:
            ours = self.batch.forward.prefix.rows[layer][
                self.prefix, :, -split:, columns.prefix - split : columns.prefix
            ]
            worst = (ours.float() - eager[:, :split, :split]).abs().amax((-1, -2)).numpy()
            _refuse(layer, "differs from an eager forward over the prefix", worst, self.row_tolerance)
        for kept, queries in self._queries():
            theirs = eager[:, queries.start - self.rows_from : queries.stop - self.rows_from]
            ours = kept.rows[layer][self.row, :, -theirs.shape[1] :].float()
            parts = [
                ours[..., columns.prefix - split : columns.prefix],
                ours[..., columns.prefix + columns.suffix - asked :],
            ]
            joined = torch.cat(parts, dim=-1)
            worst = (joined - theirs[..., : joined.shape[-1]]).abs().amax((-1, -2)).numpy()
            _refuse(layer, "differs from an eager forward", worst, self.row_tolerance)

    def _queries(self) -> Iterable[tuple[Kept, slice]]:
        """Every forward with rows, and which tokens its queries are."""
        end = len(self.prompt.ids)
        suffix = self.batch.forward.suffix
        if not suffix.rows:
            return
        shown = next(iter(suffix.rows.values())).shape[2]
        yield suffix, slice(max(self.prompt.split, end - shown), end)
        for step, kept in enumerate(self.batch.forward.steps[: self.told]):
            yield kept, slice(end + step, end + step + 1)
