"""A batch at a block without the blocks before it: the residual streams that the run stored, in their columns.

Right where the store lost nothing, and where no answer goes on past its first token: that would take the keys and
values of the blocks that did not run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from transformers.cache_utils import DynamicCache

from vlmlake.ingest.arguments import on_device, position_ids
from vlmlake.ingest.columns import Columns, Padded
from vlmlake.ingest.families.base import Family
from vlmlake.ingest.generation import Questions
from vlmlake.ingest.interventions.edited.calls import BlockCall, call_of_block
from vlmlake.ingest.interventions.edited.suffix import Part, Started
from vlmlake.ingest.interventions.requests.conditions import block_label
from vlmlake.store_schema.run import Run

KEPT = ("hidden_states", "prefix_states")


def keeps_streams(run: Run, block: int) -> bool:
    """Whether the store has just what enters a block, at every token."""
    if run.record.stored_dtype not in ("float32", run.record.identity["model"]["dtype"]):
        return False
    return {*KEPT} <= {*run.record.arrays} and block > 0 and block_label(block - 1) in run.record.layers


@torch.inference_mode()
def start_from_store(
    run: Run, family: Family, asked: Questions, examples: Sequence[str], block: int, shared: bool
) -> Started:
    """As suffix.start, from what the run stored. examples: for each question the id of one that asks it."""
    columns, pad = Columns.of(asked.prompts), family.tokenizer.pad_token_id or 0
    data = run.dataset().sel(layer=block_label(block - 1), example=list(examples))
    prefix_of = list(asked.prefix_of) if shared else list(range(len(asked.prompts)))
    first = [prefix_of.index(number) for number in range(max(prefix_of) + 1)]
    prefixes = columns.prefixes([asked.prompts[place] for place in first], pad)
    suffixes = columns.suffixes(asked.prompts, pad)
    of_prefixes = data["prefix_states"].sel(prefix=data["prefix_of"].values[first])
    before, after = _padded(of_prefixes, prefixes), _padded(data["hidden_states"], suffixes)
    both = np.concatenate([prefixes.seen[prefix_of], suffixes.seen], axis=1)
    seen = on_device(family, both).bool()
    cache = DynamicCache()
    if not shared:
        whole = prefixes.beside(suffixes)
        ids = on_device(family, whole.ids)
        arguments = {"attention_mask": on_device(family, whole.seen), **family.sequence_arguments(ids)}
        stream = np.concatenate([before, after], axis=1)
        return Started(family, block, asked, None, _part(family, whole, stream, seen, arguments), cache, seen, 0)
    prefix_seen = on_device(family, prefixes.seen)
    prefix = _part(family, prefixes, before, prefix_seen.bool(), {"attention_mask": prefix_seen})
    mask = seen[:, None, None, :] & _causal(columns, family.device)
    suffix = _part(family, suffixes, after, on_device(family, suffixes.seen).bool(), {"attention_mask": mask})
    return Started(family, block, asked, prefix, suffix, cache, seen, 0)


def _part(family: Family, padded: Padded, stream: np.ndarray, seen: torch.Tensor, arguments: dict[str, Any]) -> Part:
    """stream: [rows, columns, hidden]. The first block is called with what all blocks are, the stream apart."""
    call = call_of_block(
        family,
        0,
        input_ids=on_device(family, padded.ids),
        position_ids=position_ids(family, padded.positions),
        use_cache=False,
        **arguments,
    )
    return Part(BlockCall(on_device(family, stream).to(call.stream.dtype), call.keywords), seen, None)


def _padded(states: xr.DataArray, padded: Padded) -> np.ndarray:
    """Stored states, [rows, tokens, hidden], in the columns in which their tokens are; 0 elsewhere."""
    values = states.values.astype(np.float32)
    rows, columns = padded.seen.shape
    found = np.zeros((rows, columns, values.shape[-1]), np.float32)
    for row, seen in enumerate(padded.seen.astype(bool)):
        found[row, seen] = values[row, : int(seen.sum())]
    return found


def _causal(columns: Columns, device: torch.device) -> torch.Tensor:
    """[suffix, prefix and suffix], bool: what each of the suffix's columns may look at."""
    keys = torch.arange(columns.prefix + columns.suffix, device=device)
    queries = columns.prefix + torch.arange(columns.suffix, device=device)
    return keys[None] <= queries[:, None]
