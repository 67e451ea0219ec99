"""From what the forwards left to what the schema wants: padding cut, axes aligned, one array per name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vlmlake.ingest.families.base import ImageInputs, Prompt
from vlmlake.ingest.generation import Pass
from vlmlake.store_schema.schema import ROLES, Extents


def batch_arrays(
    extents: Extents, forward: Pass, images: Sequence[ImageInputs], prompts: Sequence[Prompt], prefix_of: Sequence[int]
) -> dict[str, np.ndarray]:
    """The arrays of one batch as `arrays.write_batch` takes them, no longer than the batch needs.

    Activations are float32 with NaN where an example has no token; integers have -1 there. Inside an example a masked
    key has attention 0.
    """
    lengths = [prompt.suffix_length + answer.captured for prompt, answer in zip(prompts, forward.answers, strict=True)]
    tokens = max(lengths)
    positions = 1 + max(answer.captured for answer in forward.answers)
    examples = len(prompts)
    arrays = {
        "hidden_states": _blank(examples, extents.layers, tokens, extents.hidden),
        "attention": _blank(examples, extents.layers, extents.heads, tokens, extents.prefix_tokens + tokens),
        "readout_states": _blank(examples, extents.layers, positions, extents.hidden),
        "logits": _blank(examples, positions, extents.vocab),
        "token_id": np.full((examples, tokens), -1, np.int32),
        "token_role": np.full((examples, tokens), -1, np.int8),
        **_prefix_arrays(extents, forward, images, prompts, prefix_of),
    }
    for number, (prompt, answer) in enumerate(zip(prompts, forward.answers, strict=True)):
        asked, told = prompt.suffix_length, answer.captured
        length = asked + told
        streams = forward.states[number, :, forward.width - asked : forward.width + told]
        arrays["hidden_states"][number, :, :length] = streams
        arrays["readout_states"][number, :, : told + 1] = streams[:, asked - 1 :]
        arrays["logits"][number, : told + 1] = forward.logits[number, : told + 1]
        arrays["token_id"][number, :length] = [*prompt.ids[prompt.split :], *answer.ids[:told]]
        arrays["token_role"][number, :length] = [*prompt.roles[prompt.split :], *[ROLES.index("answer")] * told]
        _place_attention(arrays["attention"][number, 1:], forward, number, prompt, told, extents.prefix_tokens)
    return arrays


def _prefix_arrays(
    extents: Extents, forward: Pass, images: Sequence[ImageInputs], prompts: Sequence[Prompt], prefix_of: Sequence[int]
) -> dict[str, np.ndarray]:
    shape = (len(images), extents.prefix_tokens)
    arrays = {
        "prefix_states": _blank(len(images), extents.layers, extents.prefix_tokens, extents.hidden),
        "prefix_token_id": np.full(shape, -1, np.int32),
        "prefix_token_role": np.full(shape, -1, np.int8),
        "image_row": np.full(shape, -1, np.int16),
        "image_column": np.full(shape, -1, np.int16),
    }
    for number, image in enumerate(images):
        prompt = prompts[prefix_of.index(number)]
        before = prompt.split
        arrays["prefix_states"][number, :, :before] = forward.prefix_states[number]
        arrays["prefix_token_id"][number, :before] = prompt.ids[:before]
        arrays["prefix_token_role"][number, :before] = prompt.roles[:before]
        patches = np.flatnonzero(prompt.roles == ROLES.index("image"))
        rows, columns = np.divmod(np.arange(len(patches)), image.grid[1])
        arrays["image_row"][number, patches] = rows
        arrays["image_column"][number, patches] = columns
    return arrays


def _place_attention(
    target: np.ndarray, forward: Pass, number: int, prompt: Prompt, told: int, prefix_tokens: int
) -> None:
    """Fill one example's rows. target: [blocks, heads, queries, keys]; keys are the prefix axis, then the suffix's."""
    asked, split = prompt.suffix_length, prompt.split
    padding = forward.width - asked
    length = asked + told
    target[:, :, :length, :split] = 0
    target[:, :, :length, prefix_tokens : prefix_tokens + length] = 0
    for step in range(1 + told):
        rows = forward.attention[step][number]
        queries = slice(0, asked) if step == 0 else slice(asked + step - 1, asked + step)
        real = rows[:, :, padding:] if step == 0 else rows
        target[:, :, queries, :split] = real[..., :split]
        target[:, :, queries, prefix_tokens : prefix_tokens + asked + step] = real[..., split + padding :]


def _blank(*shape: int) -> np.ndarray:
    return np.full(shape, np.nan, np.float32)
