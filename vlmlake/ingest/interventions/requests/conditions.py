"""A condition: one way in which the model or the images are not as they were, immutable and known by its content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from vlmlake.errors import VlmlakeError
from vlmlake.ingest.interventions.edited.edits import Edit
from vlmlake.store_schema import tables
from vlmlake.store_schema.run_record import fingerprint
from vlmlake.store_schema.schema import PROMPT_LAST

NONE, ABLATE, HEADS, BYPASS, PATCH, MASK = "none", "ablate", "heads", "bypass", "patch", "mask"
ALL = "all"
POSITIONS = (ALL, PROMPT_LAST)
ZERO, MEAN, DONOR, GRAY = "zero", "mean", "donor", "gray"


APART = ("run", "intervention", "condition", "edits", "pairs", "examples", "settings")
"""Columns of tables.INTERVENTIONS that are no plain field of a condition."""


@dataclass(frozen=True, eq=False)
class Condition:
    """One row of tables.INTERVENTIONS; fields as its columns.

    edits: coordinates that are set, the same for all examples. pairs: of examples whose activations of `site` at
    `layer`, at prompt_last, another example's take the place of; only these are asked about. reduction: of the
    attention heads that masks are chosen by.
    """

    kind: str
    set: str
    answer_tokens: int
    member: int = 0
    ranking: str | None = None
    rule: str | None = None
    site: str | None = None
    layer: str | None = None
    head: int | None = None
    mode: str | None = None
    positions: str | None = None
    k: int | None = None
    share: float | None = None
    edits: tuple[Edit, ...] = ()
    pairs: Mapping[str, str] = field(default_factory=dict)
    seed: int | None = None
    reduction: str | None = None

    @cached_property
    def id(self) -> str:
        """The same change of the same model has the same id, whatever it was asked for."""
        return f"{self.kind}-{fingerprint(self._content())[:12]}"

    def concerns(self, example: str) -> bool:
        """Whether an example is asked about under it."""
        return not self.pairs or example in self.pairs

    def _content(self) -> dict[str, Any]:
        """What decides the outcomes."""
        content: dict[str, Any] = {"answer_tokens": self.answer_tokens}
        if self.kind == MASK:
            drawn = {"member": self.member, "seed": self.seed}
            seen = {"layer": self.layer, "reduction": self.reduction}
            return {**content, "set": self.set, "share": self.share, **(drawn if self.set == "random" else seen)}
        if self.kind == PATCH:
            content |= {"site": self.site, "layer": self.layer, "pairs": dict(self.pairs)}
        if self.kind != NONE:
            content |= {"positions": self.positions, "edits": [_edit_content(edit) for edit in self.edits]}
        return content

    def row(self, run: str, intervention: str, settings: str, examples: Sequence[str]) -> dict[str, Any]:
        """Of tables.INTERVENTIONS. examples: those that the intervention asks about."""
        plain = {name: getattr(self, name) for name in tables.INTERVENTIONS.names if name not in APART}
        return {
            "run": run,
            "intervention": intervention,
            "condition": self.id,
            **plain,
            "edits": [
                {
                    "site": edit.site,
                    "layer": block_label(edit.block),
                    "neurons": edit.neurons.tolist(),
                    "values": edit.values.tolist(),
                }
                for edit in self.edits
            ],
            "pairs": [{"example": example, "donor": donor} for example, donor in self.pairs.items()],
            "examples": list(examples) if self.kind == NONE else None,
            "settings": settings,
        }

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Condition:
        """Out of a row of tables.INTERVENTIONS."""
        plain = {name: row[name] for name in tables.INTERVENTIONS.names if name not in APART}
        edits = tuple(
            Edit(edit["site"], block_number(edit["layer"]), np.array(edit["neurons"]), np.array(edit["values"]))
            for edit in row["edits"]
        )
        reduction = json.loads(row["settings"]).get("reduction") if row["kind"] == MASK else None
        pairs = {pair["example"]: pair["donor"] for pair in row["pairs"]}
        return cls(**plain, edits=edits, pairs=pairs, reduction=reduction)


def unchanged(answer_tokens: int) -> Condition:
    """The model as it is."""
    return Condition(NONE, NONE, answer_tokens)


def block_label(block: int) -> str:
    """As the arrays' axis `layer` has it."""
    return f"block_{block}"


def block_number(label: str) -> int:
    """Raises VlmlakeError for what is no block's label."""
    head, _, number = label.rpartition("_")
    if head != "block" or not number.isdecimal():
        raise VlmlakeError(f"the layer is {label}, expected that of a block, as in block_3")
    return int(number)


def _edit_content(edit: Edit) -> list[Any]:
    order = np.argsort(edit.neurons)
    digest = hashlib.sha256(edit.neurons[order].tobytes() + edit.values[..., order].tobytes()).hexdigest()
    return [edit.site, edit.block, digest]


def distinct(conditions: Sequence[Condition]) -> tuple[Condition, ...]:
    """Of equal ones the first."""
    return tuple({condition.id: condition for condition in reversed(conditions)}.values())[::-1]
