"""What a run keeps: which arrays, which layers, which answer positions, in which dtype. Three plans by name, more by
TOML.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmlake.errors import VlmlakeError
from vlmlake.store_schema.schema import (
    ALWAYS,
    ARRAYS,
    BLANK_ARRAYS,
    EMBED,
    PROMPT_LAST,
    STORED_DTYPES,
    ArraySpec,
    layer_names,
    position_names,
)

READOUT_ARRAYS = ("readout_states", "logits", "attn_write", "mlp_write", "image_update")
SUFFIX_ARRAYS = ("hidden_states", "prefix_states", "attention", *READOUT_ARRAYS)
BUILT_IN = {
    "full": (*SUFFIX_ARRAYS, "prefix_attention", "token_logits", "prefix_logits"),
    "suffix": SUFFIX_ARRAYS,
    "readout": (*READOUT_ARRAYS, "readout_attention"),
}
DEFAULT_PLAN = "suffix"

CHOOSABLE = tuple(spec.name for spec in ARRAYS if spec.name not in (*ALWAYS, *BLANK_ARRAYS))
"""Arrays that a plan may name; `--blank` adds its own two, and what ALWAYS lists comes with every run."""


@dataclass(frozen=True)
class CapturePlan:
    """What to keep.

    arrays: names of CHOOSABLE. layers: labels of the layers to keep, none for all. positions: labels of the positions
    to keep (`prompt_last`, `answer_0`, ...), none for all. dtype: how activations are stored, one of STORED_DTYPES.
    blank: keep the readout states and logits of the gray-image control too.
    """

    name: str
    arrays: tuple[str, ...]
    layers: tuple[str, ...] | None = None
    positions: tuple[str, ...] | None = None
    dtype: str = "float16"
    blank: bool = False

    def __post_init__(self) -> None:
        where = f"plan {self.name}"
        _require_known(where, "arrays", self.arrays, CHOOSABLE)
        for field in ("layers", "positions"):
            chosen = getattr(self, field)
            if chosen is not None and (not chosen or len(set(chosen)) != len(chosen)):
                raise VlmlakeError(f"{where}: {field} is {list(chosen)}, expected different labels, at least one")
        if self.positions is not None and PROMPT_LAST not in self.positions:
            raise VlmlakeError(f"{where}: positions lack {PROMPT_LAST}, which every answer starts from")
        if self.layers == (EMBED,):
            raise VlmlakeError(f"{where}: {EMBED} alone is no block; expected at least one like block_0")
        if self.dtype not in STORED_DTYPES:
            raise VlmlakeError(f"{where}: dtype is {self.dtype}, expected one of {', '.join(STORED_DTYPES)}")

    @property
    def specs(self) -> tuple[ArraySpec, ...]:
        """The arrays of a run under this plan, in the order of schema.ARRAYS."""
        names = {*self.arrays, *ALWAYS, *(BLANK_ARRAYS if self.blank else ())}
        return tuple(spec for spec in ARRAYS if spec.name in names)

    def chosen_layers(self, blocks: int) -> tuple[str, ...]:
        """Labels of the run's layer axis for a decoder of so many blocks. Raises VlmlakeError for one it has not."""
        return _chosen(self.name, "layers", self.layers, layer_names(blocks))

    def chosen_positions(self, answer_tokens: int) -> tuple[str, ...]:
        """Labels of the run's position axis for answers of so many tokens. Raises VlmlakeError for one beyond them."""
        return _chosen(self.name, "positions", self.positions, position_names(answer_tokens))


def read_plan(name: str, dtype: str | None = None, blank: bool = False) -> CapturePlan:
    """The plan of that name, or from a TOML file with the keys arrays, layers, positions and dtype, all optional.

    What a file leaves out is as in `suffix`. dtype, where given, overrides the file's. Raises VlmlakeError for an
    unknown name or a malformed file.

        arrays = ["readout_states", "logits"]
        layers = ["embed", "block_20", "block_31"]
        positions = ["prompt_last"]
        dtype = "float32"
    """
    if name in BUILT_IN:
        return CapturePlan(name, BUILT_IN[name], dtype=dtype or CapturePlan.dtype, blank=blank)
    path = Path(name).expanduser()
    if not name.endswith(".toml"):
        raise VlmlakeError(f"no plan named {name}: expected {', '.join(BUILT_IN)} or a file ending in .toml")
    try:
        fields = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise VlmlakeError(f"no plan at {name}: the file is not there") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise VlmlakeError(f"{name} is not valid TOML: {error}") from error
    _require_known(name, "keys", list(fields), ("arrays", "layers", "positions", "dtype"))
    lists = {
        field: _labels(name, field, fields[field]) for field in ("arrays", "layers", "positions") if field in fields
    }
    stored = dtype or fields.get("dtype", CapturePlan.dtype)
    arrays = lists.pop("arrays", SUFFIX_ARRAYS)
    return CapturePlan(path.stem, arrays, dtype=stored, blank=blank, **lists)


def _labels(where: str, field: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise VlmlakeError(f"{where}: {field} is {value!r}, expected a list of names")
    return tuple(value)


def _require_known(where: str, what: str, given: Sequence[str], known: Sequence[str]) -> None:
    unknown = [name for name in given if name not in known]
    if unknown:
        raise VlmlakeError(f"{where}: unknown {what} {', '.join(unknown)}; expected some of {', '.join(known)}")


def _chosen(plan: str, what: str, chosen: tuple[str, ...] | None, there: tuple[str, ...]) -> tuple[str, ...]:
    if chosen is None:
        return there
    beyond = [label for label in chosen if label not in there]
    if beyond:
        raise VlmlakeError(f"plan {plan}: no {what} {', '.join(beyond)} here; there are {there[0]} ... {there[-1]}")
    return tuple(label for label in there if label in chosen)
