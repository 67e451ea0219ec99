"""What every pass checks on its first batch, before anything is written: the capture tells what the model does.

Attention rows sum to 1 and are 0 at masked keys, and one example equals a plain eager forward of it alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from vlmlake.errors import VlmlakeError
from vlmlake.ingest.attention_rows import IMPLEMENTATION
from vlmlake.ingest.capture import recording
from vlmlake.ingest.families.base import Family, ImageInputs, Prompt
from vlmlake.ingest.generation import Pass

ROW_SUM_TOLERANCE = 1e-3
TOLERANCES = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Largest difference to the eager forward, in units of the compared layer's largest value (at least 1)."""


def check_first_batch(
    family: Family, forward: Pass, images: Sequence[ImageInputs], prompts: Sequence[Prompt], prefix_of: Sequence[int]
) -> None:
    """Raises VlmlakeError naming the layer, and the head for attention, where the capture is wrong."""
    _check_rows(forward, prompts)
    _check_against_eager(family, forward, images, prompts[0], prefix_of[0])


def _check_rows(forward: Pass, prompts: Sequence[Prompt]) -> None:
    rows = forward.attention[0]
    for number, prompt in enumerate(prompts):
        padding = forward.width - prompt.suffix_length
        real = rows[number, :, :, padding:]
        queries, keys = real.shape[-2:]
        masked = np.triu(np.ones((queries, keys), bool), keys - queries + 1)
        masked[:, prompt.split : prompt.split + padding] = True
        _refuse("does not sum to 1", np.abs(real.sum(-1) - 1).max(-1), ROW_SUM_TOLERANCE)
        _refuse("is not 0 at masked keys", np.abs(real * masked).max((-1, -2)), 0.0)


def _refuse(what: str, worst: np.ndarray, tolerance: float) -> None:
    """worst: [blocks, heads]."""
    if worst.max() > tolerance or np.isnan(worst).any():
        block, head = np.unravel_index(np.nanargmax(np.where(np.isnan(worst), np.inf, worst)), worst.shape)
        raise VlmlakeError(
            f"attention of block_{block}, head {head} {what} in the first batch: this pass wrote nothing"
        )


@torch.inference_mode()
def _check_against_eager(
    family: Family, forward: Pass, images: Sequence[ImageInputs], prompt: Prompt, prefix: int
) -> None:
    ids = torch.from_numpy(prompt.ids).long()[None].to(family.device)
    rows: list[torch.Tensor] = []
    hooks = [
        attention.register_forward_hook(lambda module, arguments, output: rows.append(output[1]))
        for attention in family.attentions
    ]
    family.model.set_attn_implementation({"text_config": "eager"})
    try:
        with recording(family, attention=False) as plain:
            family.model(input_ids=ids, **family.stack_images([images[prefix]]), use_cache=False, logits_to_keep=1)
    finally:
        family.model.set_attn_implementation({"text_config": IMPLEMENTATION})
        for hook in hooks:
            hook.remove()
    tolerance = TOLERANCES.get(family.model.dtype, 1e-4)
    padding = forward.width - prompt.suffix_length
    split = prompt.split
    for layer, states in enumerate(plain.states[0].float().cpu().numpy()):
        ours = np.concatenate([forward.prefix_states[prefix, layer], forward.states[0, layer, padding : forward.width]])
        difference = np.abs(ours - states).max() / max(1.0, np.abs(states).max())
        if not difference <= tolerance:
            raise VlmlakeError(
                f"layer {layer} of the residual stream differs from an eager forward by {difference:.2g} of its "
                "largest value in the first batch: this pass wrote nothing"
            )
    eager = torch.stack(rows)[:, 0].float().cpu().numpy()[:, :, split:]
    ours = forward.attention[0][0, :, :, padding:]
    kept = np.concatenate([ours[..., :split], ours[..., split + padding :]], axis=-1)
    _refuse("differs from an eager forward", np.abs(kept - eager).max((-1, -2)), tolerance)
