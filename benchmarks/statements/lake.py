"""The lake that is asked: readout states, and labels of the answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from stores.lake import MODEL, write_states
from stores.subject import States

from vlmlake.analysis.analyze import analyze
from vlmlake.queries import sql
from vlmlake.store_schema import shard_part
from vlmlake.store_schema.lake import open_lake
from vlmlake.store_schema.run import Run

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Subject:
    """layer: which one is asked about, of all examples at the first position. rounds: each way is tried so often."""

    url: str
    states: States
    layer: int
    rounds: int
    options: Options | None = None

    def write(self) -> None:
        """A finished run, and what the analysis `labels` finds in it."""
        write_states(self.url, self.states, self.options)
        analyze(self.url, ("labels",), storage_options=self.options).raise_refusals()

    @property
    def run(self) -> Run:
        return open_lake(self.url, self.options).run(MODEL)

    @property
    def layer_name(self) -> str:
        return self.run.record.layers[self.layer]

    @cached_property
    def labels(self) -> np.ndarray:
        """Of each example, in the order of its row."""
        query = "SELECT label FROM labels JOIN examples USING (run, example) ORDER BY row"
        return np.array(sql(self.url, query, self.options)["label"].to_pylist())

    @cached_property
    def vectors(self) -> np.ndarray:
        """float64 [example, hidden] of the layer, as they were made, not as they were read."""
        return self.states.at(self.layer).astype(np.float64)


def forget_indexes() -> None:
    """So that a statement reads the shards' indexes, as the first one does."""
    shard_part._indexes.clear()
