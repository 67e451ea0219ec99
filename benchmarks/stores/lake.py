"""Ours: a lake whose batches are written and committed as `vlmlake extract` does, and read by layer and position."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from stores.subject import POSITIONS, States
from vlmlake.store_schema.commits import commit_batch, create_run
from vlmlake.store_schema.finish import finish
from vlmlake.store_schema.lake import create_lake, open_lake
from vlmlake.store_schema.run_record import RunRecord
from vlmlake.store_schema.schema import ALWAYS, Extents, layer_names, position_names
from vlmlake.store_schema.shard_part import _indexes

MODEL = "benchmark"
VOCABULARY = 64
SPLITS = ("random", "popular", "adversarial")


def plan(array: str, batches: int, examples: int, **lengths: int) -> RunRecord:
    """A run of batches that keep one array. lengths: of Extents; those that the array has not are 1."""
    axes = {"layers": 2, "heads": 1, "tokens": 1, "prefix_tokens": 1, "positions": 2, "hidden": 8} | lengths
    extents = Extents(batches, example_rows=examples, prefix_rows=examples, vocab=VOCABULARY, **axes)
    return RunRecord(
        model=MODEL,
        identity={"array": array, **lengths},
        examples=batches * examples,
        rows=batches * examples,
        extents=extents,
        stored_dtype="float16",
        arrays=(array, *ALWAYS),
        layers=layer_names(extents.layers - 1),
        positions=position_names(extents.positions - 1),
        final_norm={},
        versions={},
    )


class Writer:
    """Lays a run out, then commits its batches one by one."""

    def __init__(self, url: str, array: str, record: RunRecord, options: Mapping[str, Any] | None = None) -> None:
        self.storage = create_lake(url, options).storage
        self.array, self.record = array, record
        hidden = record.extents.hidden
        once = {"unembedding": np.zeros((VOCABULARY, hidden), np.float16), "final_norm": np.zeros(hidden, np.float16)}
        create_run(self.storage, record, once, ["token"] * VOCABULARY)

    def commit(self, number: int, values: np.ndarray) -> int:
        """Write a batch; returns the bytes written."""
        arrays = {}
        for spec in self.record.batch_specs:
            lengths = {"example": len(values), "prefix": len(values)}
            shape = [lengths.get(axis, self.record.extents.shard(axis)) for axis in spec.dimensions]
            arrays[spec.name] = values if spec.name == self.array else np.zeros(shape, spec.dtype("float16"))
        return commit_batch(self.storage, self.record, number, arrays, self._rows(number, len(values)))

    def finish(self) -> None:
        finish(self.storage, self.record)

    def _rows(self, number: int, count: int) -> list[dict[str, Any]]:
        first = number * self.record.extents.example_rows
        words = {"dataset": "pope", "question": "Is there a car in the image?", "gold": "yes"}
        return [
            {**words, "run": self.record.name, "example": f"pope-{row:06d}", "split": self._split(row), "batch": number}
            | {"row": row, "prefix": row, "image": f"{row}.jpg", "prefix_tokens": 1, "suffix_tokens": 1}
            | {"answer": "no" if row % 5 == 0 else "yes", "answer_tokens": 1}
            for row in range(first, first + count)
        ]

    def _split(self, row: int) -> str:
        """One after the other, as POPE's files are read."""
        return SPLITS[row * len(SPLITS) // self.record.rows]


def write_states(url: str, states: States, options: Mapping[str, Any] | None = None) -> None:
    """A finished run of readout states."""
    batches = -(-states.examples // states.batch)
    lengths = {"layers": states.layers, "positions": len(POSITIONS), "hidden": states.hidden}
    writer = Writer(url, "readout_states", plan("readout_states", batches, states.batch, **lengths), options)
    for number, (_, block) in enumerate(states.blocks()):
        writer.commit(number, block)
    writer.finish()


class Reader:
    """kept: whether the run stays open from one reading to the next, as in a notebook."""

    def __init__(self, url: str, options: Mapping[str, Any] | None = None, kept: bool = False) -> None:
        self.url, self.options, self.kept = url, options, kept
        self._run = open_lake(url, options)[MODEL] if kept else None

    def read(self, layer: int) -> np.ndarray:
        """float32 [example, hidden]; nothing but an open run is remembered from an earlier reading."""
        _indexes.clear()
        run = open_lake(self.url, self.options)[MODEL] if self._run is None else self._run
        chosen = run["readout_states"].sel(layer=layer_names(layer)[layer], position=POSITIONS[0])
        values: np.ndarray = chosen.compute().values
        return values
