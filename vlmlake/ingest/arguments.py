"""What a forward over padded prompts is called with, on the model's device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from vlmlake.ingest.columns import Padded
from vlmlake.ingest.families.base import Family, ImageInputs


def prompt_arguments(family: Family, padded: Padded, images: Sequence[ImageInputs]) -> dict[str, Any]:
    """Keyword arguments of a forward over whole prompts, or their prefixes, with an image each."""
    ids = on_device(family, padded.ids)
    return {
        "input_ids": ids,
        "attention_mask": on_device(family, padded.seen),
        "position_ids": position_ids(family, padded.positions),
        **family.stack_images(images),
        **family.sequence_arguments(ids),
    }


def continuation_arguments(family: Family, padded: Padded, seen: np.ndarray, cache: Any) -> dict[str, Any]:
    """Of a forward over what follows a cached prefix. seen: [rows, columns] of both, 1 where a token is."""
    return {
        "input_ids": on_device(family, padded.ids),
        "attention_mask": on_device(family, seen),
        "position_ids": position_ids(family, padded.positions),
        "past_key_values": cache,
        "use_cache": True,
    }


def position_ids(family: Family, positions: np.ndarray) -> torch.Tensor:
    """[rows, columns] for families of one axis, [3, rows, columns] for those of three."""
    return on_device(family, positions[0] if len(positions) == 1 else positions)


def on_device(family: Family, values: np.ndarray) -> torch.Tensor:
    """A copy, where the model is."""
    return torch.from_numpy(np.array(values)).to(family.device)
