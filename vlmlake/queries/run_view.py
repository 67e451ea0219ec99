"""One run as scans see it: its visible examples, its arrays, and what each token is; as they were when it was made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import polars as pl
import pyarrow as pa

from vlmlake.errors import DamagedError
from vlmlake.store_schema import tables
from vlmlake.store_schema.commit import Commit
from vlmlake.store_schema.commits import rows_of, visible
from vlmlake.store_schema.run import Run
from vlmlake.store_schema.run_record import RunRecord
from vlmlake.store_schema.schema import IMAGE
from vlmlake.store_schema.stored_array import StoredArray

COLUMNS = (
    "run",
    "example",
    "image",
    "image_sha256",
    "batch",
    "row",
    "prefix",
    "prefix_tokens",
    "suffix_tokens",
    "answer_tokens",
)


@dataclass(frozen=True, eq=False)
class RunView:
    """rows: of tables.BATCH. examples: a row for each, in the order of their rows in the arrays, columns as in COLUMNS
    and `number`, its place here.
    """

    run: Run
    commits: Mapping[int, Commit]
    rows: pa.Table
    examples: pl.DataFrame
    _tokens: dict[tuple[str, int], np.ndarray] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, run: Run) -> RunView:
        """What is visible now."""
        commits = visible(run.storage, run.record)
        rows = rows_of(commits)
        examples = tables.frame(rows.select(COLUMNS)).sort("row", "example").with_row_index("number")
        return cls(run, commits, rows, examples)

    @property
    def name(self) -> str:
        return self.run.name

    @property
    def record(self) -> RunRecord:
        return self.run.record

    def keeps(self, array: str) -> bool:
        """Whether the run's plan has it."""
        return array in self.record.arrays

    def array(self, name: str) -> StoredArray:
        """One that the run keeps, indexed by its rows as they are stored."""
        spec = next(spec for spec in self.record.specs if spec.name == name)
        shards = {number: commit.shards[name] for number, commit in self.commits.items()}
        every = np.arange(self.record.extents.length(spec.dimensions[0]))
        return StoredArray(self.run.storage, self.record, spec, every, shards)

    def tokens(self, array: str, rows: np.ndarray) -> np.ndarray:
        """What one of schema.TOKEN_ARRAYS says of some rows of its first axis, [n, tokens]; each batch is read once."""
        stored = self.array(array)
        size = self.record.extents.shard(stored.spec.dimensions[0])
        numbers, place = np.unique(rows // size, return_inverse=True)
        missing = [number for number in numbers.tolist() if (array, number) not in self._tokens]
        if missing:
            wanted = (np.array(missing)[:, None] * size + np.arange(size)).reshape(-1)
            for number, values in zip(missing, stored[wanted].reshape(len(missing), size, -1), strict=True):
                self._tokens[array, number] = values
        if not len(numbers):
            return np.empty((0, stored.shape[1]), stored.dtype)
        found: np.ndarray = np.stack([self._tokens[array, number] for number in numbers.tolist()])[place, rows % size]
        return found

    def image_tokens(self, prefixes: np.ndarray) -> list[np.ndarray]:
        """For each prefix the places of its image tokens, in the order of the grid's rows."""
        image = self.tokens("prefix_token_role", prefixes) == IMAGE
        rows, columns = (self.tokens(name, prefixes) for name in ("image_row", "image_column"))
        found = []
        for here, row, column in zip(image, rows, columns, strict=True):
            places = np.flatnonzero(here)
            found.append(places[np.lexsort((column[places], row[places]))])
        return found

    def grids(self, prefixes: np.ndarray) -> np.ndarray:
        """Rows and columns of each prefix's image, [n, 2]; 0 without one."""
        cells = [self.tokens(name, prefixes) for name in ("image_row", "image_column")]
        return np.stack([1 + cell.max(axis=1, initial=-1) for cell in cells], axis=1).astype(np.int32)

    @cached_property
    def map_length(self) -> int | None:
        """How many image tokens every prefix has; none where they differ, where there is no example, or where that
        cannot be read: what needs it says so.
        """
        if self.examples["prefix_tokens"].n_unique() != 1:
            return None
        try:
            return len(self.image_tokens(self.examples["prefix"].head(1).to_numpy())[0])
        except DamagedError:
            return None
