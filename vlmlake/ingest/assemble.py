"""From what the forwards left to what the schema wants: padding cut, axes aligned, one array per name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from vlmlake.ingest.capture import Kept, Layers, Wanted
from vlmlake.ingest.families.base import Prompt
from vlmlake.ingest.generation import Pass, Questions
from vlmlake.ingest.host import as_array
from vlmlake.store_schema.run_record import RunRecord
from vlmlake.store_schema.schema import ANSWER, IMAGE, ArraySpec, Dimension
from vlmlake.store_schema.shards import fill


@dataclass(frozen=True)
class Finished:
    """One batch after its forwards. sees_suffix: whether the prefix's tokens attend to the suffix's."""

    record: RunRecord
    wanted: Wanted
    asked: Questions
    forward: Pass
    sees_suffix: bool

    def rows(self) -> Iterator[tuple[int, Prompt, int]]:
        """Every question: its row, its prompt, and how many answer tokens were captured."""
        for row, (prompt, answer) in enumerate(zip(self.asked.prompts, self.forward.answers, strict=True)):
            yield row, prompt, answer.captured

    def prefixes(self) -> Iterator[tuple[int, Prompt]]:
        """Every prefix: its row, and the prompt of the first question that continues it."""
        for row in range(len(self.asked.images)):
            yield row, self.asked.first_of(row)

    def length(self, spec: ArraySpec, dimension: Dimension) -> int:
        """How long an axis of an array is in this batch."""
        columns, told = self.forward.columns, [answer.captured for answer in self.forward.answers]
        tokens = max(prompt.suffix_length + captured for _, prompt, captured in self.rows())
        first_suffix_key = self.record.extents.prefix_tokens
        keys = columns.prefix if not self.sees_suffix else first_suffix_key + columns.suffix
        lengths: dict[Dimension, int] = {
            "example": len(self.asked.prompts),
            "prefix": len(self.asked.images),
            "token": tokens,
            "query": tokens,
            "prefix_token": columns.prefix,
            "prefix_query": columns.prefix,
            "key": keys if spec.dimensions[0] == "prefix" else first_suffix_key + tokens,
            "position": sum(place <= max(told) for place in self.wanted.positions),
        }
        return lengths.get(dimension) or self.record.extents.length(dimension)


class Scratch:
    """Memory that the arrays of one batch after the other are made in: fresh pages cost more than filling them."""

    def __init__(self) -> None:
        self._kept: dict[str, np.ndarray] = {}

    def full(self, name: str, shape: Sequence[int], fill_value: float | int, dtype: np.dtype) -> np.ndarray:
        """Like np.full; what was made under the same name before is overwritten."""
        count = math.prod(shape)
        if name not in self._kept or len(self._kept[name]) < count:
            self._kept[name] = np.empty(count, dtype)
        array = self._kept[name][:count].reshape(shape)
        fill(array, fill_value)
        return array


def batch_arrays(batch: Finished, scratch: Scratch) -> dict[str, np.ndarray]:
    """Every array of the record's batch_specs by name, no longer than the batch needs; they are valid until `scratch`,
    which belongs to one run, is used again.

    Activations and attention are in the store's dtypes with NaN where an example has no token; integers have -1 there.
    Inside an example a masked key has attention 0.
    """
    batch.forward.host.wait()
    arrays = {}
    for spec in batch.record.batch_specs:
        shape = [batch.length(spec, dimension) for dimension in spec.dimensions]
        arrays[spec.name] = scratch.full(spec.name, shape, spec.fill_value, spec.dtype(batch.record.stored_dtype))
        FILL[spec.name](batch, arrays[spec.name])
    return arrays


def _hidden_states(batch: Finished, target: np.ndarray) -> None:
    forward = batch.forward
    for place, layer in enumerate(batch.wanted.layers):
        suffix = as_array(forward.suffix.states[layer])
        steps = [as_array(step.states[layer]) for step in forward.steps]
        for row, prompt, told in batch.rows():
            asked = prompt.suffix_length
            target[row, place, :asked] = suffix[row, -asked:]
            for step in range(told):
                target[row, place, asked + step] = steps[step][row, 0]


def _prefix_states(batch: Finished, target: np.ndarray) -> None:
    for place, layer in enumerate(batch.wanted.layers):
        states = as_array(batch.forward.prefix.states[layer])
        for row, prompt in batch.prefixes():
            target[row, place, : prompt.split] = states[row, -prompt.split :]


def _readout_states(batch: Finished, target: np.ndarray) -> None:
    for place, layer in enumerate(batch.wanted.layers):
        for spot, (rows, kept) in enumerate(_positions(batch)):
            target[rows, place, spot] = as_array(kept.states[layer][rows, -1])


def _logits(batch: Finished, target: np.ndarray) -> None:
    for spot, (rows, kept) in enumerate(_positions(batch)):
        assert kept.logits is not None
        target[rows, spot] = as_array(kept.logits[rows, -1])


def _readout_attention(batch: Finished, target: np.ndarray) -> None:
    width = batch.forward.columns.prefix
    for place, layer in enumerate(batch.wanted.layers):
        for spot, (rows, kept) in enumerate(_positions(batch)):
            if layer in kept.rows:
                weights = as_array(kept.rows[layer])
                for row in rows:
                    split = batch.asked.prompts[row].split
                    target[row, place, :, spot, :split] = weights[row, :, -1, width - split : width]


def _positions(batch: Finished) -> Iterator[tuple[list[int], Kept]]:
    """For every kept position in turn: the questions that have it, and the forward whose last column it is."""
    for position in batch.wanted.positions:
        rows = [row for row, _, told in batch.rows() if position <= told]
        if rows:
            yield rows, batch.forward.suffix if position == 0 else batch.forward.steps[position - 1]


def _attention(batch: Finished, target: np.ndarray) -> None:
    """Keys are the prefix axis, then the suffix's; each answer token's row comes from its own step."""
    forward, first = batch.forward, batch.record.extents.prefix_tokens
    prefix, suffix = forward.columns.prefix, forward.columns.suffix
    for place, layer in enumerate(batch.wanted.layers):
        if layer not in forward.suffix.rows:
            continue
        weights = as_array(forward.suffix.rows[layer])
        steps = [as_array(step.rows[layer]) for step in forward.steps]
        for row, prompt, told in batch.rows():
            asked, split = prompt.suffix_length, prompt.split
            there = target[row, place]
            there[:, : asked + told, first : first + asked + told] = 0
            there[:, :asked, :split] = weights[row, :, -asked:, prefix - split : prefix]
            there[:, :asked, first : first + asked] = weights[row, :, -asked:, prefix + suffix - asked :]
            for step in range(told):
                there[:, asked + step, :split] = steps[step][row, :, 0, prefix - split : prefix]
                own = steps[step][row, :, 0, prefix + suffix - asked :]
                there[:, asked + step, first : first + asked + step + 1] = own


def _prefix_attention(batch: Finished, target: np.ndarray) -> None:
    prefix, first = batch.forward.columns.prefix, batch.record.extents.prefix_tokens
    for place, layer in enumerate(batch.wanted.layers):
        if layer not in batch.forward.prefix.rows:
            continue
        weights = as_array(batch.forward.prefix.rows[layer])
        for row, prompt in batch.prefixes():
            split, asked = prompt.split, prompt.suffix_length
            mine = weights[row, :, -split:]
            target[row, place, :, :split, :split] = mine[..., prefix - split : prefix]
            if batch.sees_suffix:
                target[row, place, :, :split, first : first + asked] = mine[..., -asked:]


def _token_logits(batch: Finished, target: np.ndarray) -> None:
    assert batch.forward.suffix.logits is not None
    suffix = as_array(batch.forward.suffix.logits)
    for row, prompt, told in batch.rows():
        target[row, : prompt.suffix_length] = suffix[row, -prompt.suffix_length :]
        for step in range(told):
            logits = batch.forward.steps[step].logits
            assert logits is not None
            target[row, prompt.suffix_length + step] = as_array(logits[row, 0])


def _prefix_logits(batch: Finished, target: np.ndarray) -> None:
    assert batch.forward.prefix.logits is not None
    logits = as_array(batch.forward.prefix.logits)
    for row, prompt in batch.prefixes():
        target[row, : prompt.split] = logits[row, -prompt.split :]


def _blank_states(batch: Finished, target: np.ndarray) -> None:
    for place, layer in enumerate(batch.wanted.layers):
        target[:, place] = as_array(_blank(batch).states[layer][:, -1])


def _blank_logits(batch: Finished, target: np.ndarray) -> None:
    logits = _blank(batch).logits
    assert logits is not None
    target[:] = as_array(logits[:, -1])


def _blank(batch: Finished) -> Kept:
    assert batch.forward.blank is not None
    return batch.forward.blank


def _attn_write(batch: Finished, target: np.ndarray) -> None:
    _by_layer(batch, batch.forward.suffix.attn_write, target)


def _mlp_write(batch: Finished, target: np.ndarray) -> None:
    _by_layer(batch, batch.forward.suffix.mlp_write, target)


def _image_update(batch: Finished, target: np.ndarray) -> None:
    _by_layer(batch, batch.forward.prefix.image_update, target)


def _by_layer(batch: Finished, values: Layers, target: np.ndarray) -> None:
    for place, layer in enumerate(batch.wanted.layers):
        if layer in values:
            target[:, place] = as_array(values[layer])


def _token_id(batch: Finished, target: np.ndarray) -> None:
    for row, prompt, told in batch.rows():
        ids = [*prompt.ids[prompt.split :], *batch.forward.answers[row].ids[:told]]
        target[row, : len(ids)] = ids


def _token_role(batch: Finished, target: np.ndarray) -> None:
    for row, prompt, told in batch.rows():
        target[row, : prompt.suffix_length] = prompt.roles[prompt.split :]
        target[row, prompt.suffix_length : prompt.suffix_length + told] = ANSWER


def _prefix_token_id(batch: Finished, target: np.ndarray) -> None:
    for row, prompt in batch.prefixes():
        target[row, : prompt.split] = prompt.ids[: prompt.split]


def _prefix_token_role(batch: Finished, target: np.ndarray) -> None:
    for row, prompt in batch.prefixes():
        target[row, : prompt.split] = prompt.roles[: prompt.split]


def _image_cell(axis: int, batch: Finished, target: np.ndarray) -> None:
    for row, prompt in batch.prefixes():
        patches = np.flatnonzero(prompt.roles == IMAGE)
        target[row, patches] = np.divmod(np.arange(len(patches)), prompt.grid[1])[axis]


FILL: dict[str, Callable[[Finished, np.ndarray], None]] = {
    "hidden_states": _hidden_states,
    "prefix_states": _prefix_states,
    "attention": _attention,
    "readout_states": _readout_states,
    "logits": _logits,
    "attn_write": _attn_write,
    "mlp_write": _mlp_write,
    "image_update": _image_update,
    "readout_attention": _readout_attention,
    "prefix_attention": _prefix_attention,
    "token_logits": _token_logits,
    "prefix_logits": _prefix_logits,
    "blank_states": _blank_states,
    "blank_logits": _blank_logits,
    "token_id": _token_id,
    "token_role": _token_role,
    "prefix_token_id": _prefix_token_id,
    "prefix_token_role": _prefix_token_role,
    "image_row": partial(_image_cell, 0),
    "image_column": partial(_image_cell, 1),
}
"""How each array of the schema is filled."""
