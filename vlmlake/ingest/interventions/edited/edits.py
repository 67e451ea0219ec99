"""What is done to coordinates of a block's parts while the model runs, for many conditions in one batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from vlmlake.errors import VlmlakeError
from vlmlake.ingest.families.base import Family

RESID, MLP_OUT, ATTN_OUT, HEAD_OUT = "resid", "mlp_out", "attn_out", "head_out"
SITES = (RESID, MLP_OUT, ATTN_OUT, HEAD_OUT)
"""Where a neuron is: in the residual stream after a block, in what one of the block's halves writes, or in the heads'
outputs, head after head, before they are projected onto the stream (`z` in TransformerLens)."""

AFTER_BLOCK = (RESID, MLP_OUT)
"""Sites at which an edit changes nothing in its block but what leaves it."""


@dataclass(frozen=True, eq=False)
class Edit:
    """Set coordinates of one site to fixed values.

    site: of SITES. block: its number. neurons: [k], coordinates, each once. values: [k], what each becomes, or
    [questions, k], for each question of a batch its own; NaN leaves a coordinate as it is.
    """

    site: str
    block: int
    neurons: np.ndarray
    values: np.ndarray

    def __post_init__(self) -> None:
        neurons, values = np.asarray(self.neurons, np.int64), np.asarray(self.values, np.float32)
        object.__setattr__(self, "neurons", neurons)
        object.__setattr__(self, "values", values)
        if self.site not in SITES:
            raise VlmlakeError(f"the site is {self.site}, expected one of {', '.join(SITES)}")
        if neurons.shape != values.shape[-1:] or len(np.unique(neurons)) != len(neurons):
            raise VlmlakeError(f"{len(neurons)} neurons, {values.shape[-1]} values: expected one for each, once")

    @property
    def first_block(self) -> int:
        """The first block that runs otherwise than without it."""
        return self.block + 1 if self.site in AFTER_BLOCK else self.block


Edits = Sequence[Edit]
"""Edits that are made together; none for the model as it is."""

Place = tuple[str, int]
"""A site and a block."""


@dataclass(frozen=True)
class Rows:
    """Of each row of a batch the number of its condition and of its question. [rows] each, on the model's device."""

    condition: torch.Tensor
    question: torch.Tensor

    @classmethod
    def stacked(cls, conditions: int, questions: int, device: torch.device) -> Rows:
        """One condition after another, each with all questions."""
        numbers = torch.arange(conditions * questions, device=device)
        return cls(numbers // questions, numbers % questions)

    def chosen(self, places: torch.Tensor) -> Rows:
        return Rows(self.condition[places], self.question[places])


@dataclass(frozen=True)
class Scope:
    """What a forward's edits are made to. rows: of its batch. where: [rows, columns], bool, its tokens; all if none."""

    rows: Rows
    where: torch.Tensor | None = None


@dataclass(frozen=True)
class Overlay:
    """What conditions set at one place. values: [conditions, 1 or questions, width], NaN where nothing is set."""

    values: torch.Tensor

    def on(self, stream: torch.Tensor, scope: Scope) -> torch.Tensor:
        """The edited stream, [rows, columns, width]."""
        rows, own = scope.rows, self.values.shape[1] > 1
        values = self.values[rows.condition, rows.question if own else torch.zeros_like(rows.question)]
        values = values[:, None].to(stream.dtype)
        set_here = ~values.isnan()
        if scope.where is not None:
            set_here = set_here & scope.where[..., None]
        return torch.where(set_here, values, stream)


def overlays(family: Family, conditions: Sequence[Edits]) -> dict[Place, Overlay]:
    """The conditions' edits by place.

    Raises VlmlakeError for a block or a neuron that the model does not have, or a neuron that is set twice.
    """
    found: dict[Place, Overlay] = {}
    for place in sorted({(edit.site, edit.block) for condition in conditions for edit in condition}):
        width = _width(family, *place)
        here = [[edit for edit in condition if (edit.site, edit.block) == place] for condition in conditions]
        questions = max([1, *(len(edit.values) for edits in here for edit in edits if edit.values.ndim == 2)])
        values = np.full((len(conditions), questions, width), np.nan, np.float32)
        for number, edits in enumerate(here):
            for edit in edits:
                if edit.neurons.size and not (edit.neurons.min() >= 0 and edit.neurons.max() < width):
                    wrong = edit.neurons[(edit.neurons < 0) | (edit.neurons >= width)][0]
                    raise VlmlakeError(f"neurons of {edit.site} are 0 to {width - 1}, got {wrong}")
                if not np.isnan(values[number][:, edit.neurons]).all():
                    raise VlmlakeError(f"a neuron of {edit.site} of block {edit.block} is set twice")
                values[number][:, edit.neurons] = edit.values
        found[place] = Overlay(torch.from_numpy(values).to(family.device))
    return found


@contextmanager
def edited(family: Family, changes: Mapping[Place, Overlay], scope: Callable[[], Scope | None]) -> Iterator[None]:
    """Make the changes in every forward inside the block. scope: asked when a part of the model has run; none where
    nothing is edited in this forward.
    """

    def change(overlay: Overlay, stream: torch.Tensor) -> torch.Tensor | None:
        now = scope()
        return None if now is None else overlay.on(stream, now)

    with ExitStack() as stack:
        for place, overlay in changes.items():
            stack.callback(hooked(family, place, partial(change, overlay)))
        yield


def hooked(family: Family, place: Place, passing: Callable[[torch.Tensor], torch.Tensor | None]) -> Callable[[], None]:
    """Show what passes a place, [rows, columns, width], in every forward from now on; what it gives back, if anything,
    goes on in its stead. Returns what ends that.
    """
    site, block = place

    def after(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
        if not isinstance(output, tuple):
            return passing(output)
        changed = passing(output[0])
        return None if changed is None else (changed, *output[1:])

    def before(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        changed = passing(arguments[0])
        return None if changed is None else (changed, *arguments[1:])

    if site == HEAD_OUT:
        return family.head_projections[block].register_forward_pre_hook(before).remove
    modules = {RESID: family.blocks, MLP_OUT: family.mlps, ATTN_OUT: family.attentions}[site]
    return modules[block].register_forward_hook(after).remove


def _width(family: Family, site: str, block: int) -> int:
    if not 0 <= block < len(family.blocks):
        raise VlmlakeError(f"the model has blocks 0 to {len(family.blocks) - 1}, got {block}")
    return family.heads_width if site == HEAD_OUT else family.decoder.hidden
