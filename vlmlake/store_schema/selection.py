"""A selection of a run's layers, arrays and examples as a run of its own: its record, and which rows go where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vlmlake.errors import UnknownNameError, VlmlakeError
from vlmlake.store_schema import tables
from vlmlake.store_schema.commit import Commit
from vlmlake.store_schema.run_record import RunRecord, fingerprint
from vlmlake.store_schema.schema import ALWAYS

NAMES_SHOWN = 10


@dataclass(frozen=True)
class Selection:
    """Names of arrays, labels of layers, ids of examples; none stands for all of a kind."""

    arrays: tuple[str, ...] | None = None
    layers: tuple[str, ...] | None = None
    examples: tuple[str, ...] | None = None

    @property
    def everything(self) -> bool:
        return self.arrays is None and self.layers is None and self.examples is None


@dataclass(frozen=True)
class Part:
    """One batch of a selection, out of one of the source.

    rows, prefixes: which of the source run's rows it keeps on the example and the prefix axis, ascending. table: its
    rows of tables.BATCH, as the selection numbers them.
    """

    number: int
    source: Commit
    rows: np.ndarray
    prefixes: np.ndarray
    table: pa.Table


@dataclass(frozen=True)
class Selected:
    """record: of the run that the selection is. layers: places of its layers on the source's layer axis."""

    record: RunRecord
    layers: tuple[int, ...]
    parts: tuple[Part, ...]


def select(record: RunRecord, commits: Mapping[int, Commit], selection: Selection) -> Selected:
    """What a selection of a run's visible batches is; the same one always has the same name.

    Batches without a chosen example are left out, and so are rows and prefixes that no chosen example has.

    Raises UnknownNameError for an array, a layer or an example that is not there, VlmlakeError if no example is chosen.
    """
    arrays = _known(record, "array", selection.arrays, record.arrays)
    layers = _known(record, "layer", selection.layers, record.layers)
    there = [example for commit in commits.values() for example in commit.rows["example"].to_pylist()]
    examples = _known(record, "example", selection.examples, there)
    if not examples:
        raise VlmlakeError(
            f"nothing to copy: no example of run {record.name} is chosen, of {len(there)} that are there"
        )
    kept = tuple(name for name in record.arrays if name in (*arrays, *ALWAYS))
    copied = {
        "from": record.name,
        "layers": list(layers),
        "arrays": list(kept),
        "examples": fingerprint(sorted(examples)),
    }
    found = [part for commit in commits.values() if (part := _chosen_rows(commit, examples)) is not None]
    extents = replace(
        record.extents,
        batches=len(found),
        example_rows=max(len(rows) for _, rows, _, _ in found),
        prefix_rows=max(len(prefixes) for _, _, prefixes, _ in found),
        layers=len(layers),
    )
    new = replace(
        record,
        identity={**record.identity, "copied": copied},
        examples=len(examples),
        rows=sum(len(rows) for _, rows, _, _ in found),
        extents=extents,
        arrays=kept,
        layers=layers,
    )
    return Selected(
        new,
        tuple(record.layers.index(layer) for layer in layers),
        tuple(_renumbered(new, number, *one) for number, one in enumerate(found)),
    )


Chosen = tuple[Commit, np.ndarray, np.ndarray, pa.Table]


def _chosen_rows(commit: Commit, examples: Sequence[str]) -> Chosen | None:
    """A batch's chosen examples: rows and prefixes that they have, and their rows of the table; none without any."""
    table = commit.rows.filter(pc.is_in(commit.rows["example"], value_set=pa.array(examples, pa.string())))
    if not table.num_rows:
        return None
    return commit, np.unique(table["row"].to_numpy()), np.unique(table["prefix"].to_numpy()), table


def _renumbered(
    record: RunRecord, number: int, source: Commit, rows: np.ndarray, prefixes: np.ndarray, table: pa.Table
) -> Part:
    count = table.num_rows
    row = number * record.extents.example_rows + np.searchsorted(rows, table["row"].to_numpy())
    prefix = number * record.extents.prefix_rows + np.searchsorted(prefixes, table["prefix"].to_numpy())
    columns = {"run": [record.name] * count, "batch": [number] * count, "row": row, "prefix": prefix}
    for name, values in columns.items():
        place, told = tables.BATCH.get_field_index(name), tables.BATCH.field(name)
        table = table.set_column(place, told, pa.array(values, told.type))
    return Part(number, source, rows, prefixes, table)


def _known(record: RunRecord, what: str, chosen: Sequence[str] | None, there: Sequence[str]) -> tuple[str, ...]:
    """The chosen names in the order of what is there. Raises UnknownNameError for others."""
    if chosen is None:
        return tuple(there)
    wanted, known = set(chosen), set(there)
    unknown = [name for name in dict.fromkeys(chosen) if name not in known]
    if unknown:
        raise UnknownNameError(
            f"run {record.name} has no {what} {_listed(unknown)}: there are {_listed(there) or 'none'}"
        )
    return tuple(name for name in there if name in wanted)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:NAMES_SHOWN])
    return f"{shown} and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else shown
