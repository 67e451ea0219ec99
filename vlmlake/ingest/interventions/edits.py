"""What is done to coordinates of the residual stream while a block runs, for many conditions in one batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from vlmlake.errors import VlmlakeError
from vlmlake.ingest.families.base import Family

RESID, MLP_OUT, ATTN_OUT = "resid", "mlp_out", "attn_out"
SITES = (RESID, MLP_OUT, ATTN_OUT)
"""Where a neuron is: in the residual stream after a block, or in what one of the block's halves writes."""


@dataclass(frozen=True)
class Edit:
    """Set coordinates of one site to fixed values.

    site: of SITES. block: its number. neurons: coordinates, each once. values: what each becomes, as many.
    """

    site: str
    block: int
    neurons: tuple[int, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.site not in SITES:
            raise VlmlakeError(f"the site is {self.site}, expected one of {', '.join(SITES)}")
        if len(self.neurons) != len(self.values) or len(set(self.neurons)) != len(self.neurons):
            raise VlmlakeError(f"{len(self.neurons)} neurons, {len(self.values)} values: expected one for each, once")


Condition = Sequence[Edit]
"""Edits that are made together; none for the model as it is."""


@contextmanager
def edited(family: Family, conditions: Sequence[Condition], where: torch.Tensor) -> Iterator[None]:
    """Make the edits in every forward inside the block, over a batch in which the conditions follow one another, each
    with as many rows.

    where: [rows of one condition, columns], bool, the tokens that are edited.

    Raises VlmlakeError for a block or a neuron that the model does not have.
    """
    hidden = family.decoder.hidden
    for edit in (edit for condition in conditions for edit in condition):
        if not all(0 <= neuron < hidden for neuron in edit.neurons):
            raise VlmlakeError(f"neurons of {edit.site} are 0 to {hidden - 1}, got {max(edit.neurons, key=abs)}")
    with ExitStack() as stack:
        places = {(edit.site, edit.block) for condition in conditions for edit in condition}
        for place in sorted(places):
            chosen = [[edit for edit in condition if (edit.site, edit.block) == place] for condition in conditions]
            hook = _module(family, *place).register_forward_hook(partial(_set, chosen, where))
            stack.callback(hook.remove)
        yield


def _module(family: Family, site: str, block: int) -> nn.Module:
    modules = {RESID: family.blocks, MLP_OUT: family.mlps, ATTN_OUT: family.attentions}[site]
    if not 0 <= block < len(modules):
        raise VlmlakeError(f"the model has blocks 0 to {len(modules) - 1}, got {block}")
    return modules[block]


def _set(
    conditions: Sequence[Condition], where: torch.Tensor, module: nn.Module, arguments: tuple[Any, ...], output: Any
) -> Any:
    first = output[0] if isinstance(output, tuple) else output
    stream = first.clone()
    rows = len(stream) // len(conditions)
    for number, condition in enumerate(conditions):
        part = stream[number * rows : (number + 1) * rows]
        for edit in condition:
            neurons = torch.tensor(edit.neurons, device=stream.device)
            values = torch.tensor(edit.values, device=stream.device, dtype=stream.dtype)
            part[..., neurons] = torch.where(where[..., None], values, part[..., neurons])
    return (stream, *output[1:]) if isinstance(output, tuple) else stream
