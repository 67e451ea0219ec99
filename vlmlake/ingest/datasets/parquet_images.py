"""Image bytes in a column of a Parquet file, read by row when asked for; one row group is held at most."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from threading import Lock
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vlmlake.ingest.datasets import urls


class RowGroups:
    """An open Parquet file that remembers the row group it read last; safe to share between threads."""

    def __init__(self, place: str, options: Mapping[str, Any]) -> None:
        """Raises OSError or pyarrow.ArrowInvalid where `place`, a path or a URL, is no Parquet file."""
        opened = urls.open_file(place, options) if urls.is_url(place) else place
        self.file = pq.ParquetFile(opened, pre_buffer=False)
        sizes = (self.file.metadata.row_group(group).num_rows for group in range(self.file.num_row_groups))
        self.ends = list(accumulate(sizes))
        self._lock = Lock()
        self._held: tuple[tuple[int, str], Any] | None = None

    @property
    def schema(self) -> pa.Schema:
        return self.file.schema_arrow

    def rows(self, columns: list[str]) -> list[dict[str, Any]]:
        """All rows, with these columns only."""
        with self._lock:
            rows: list[dict[str, Any]] = self.file.read(columns=columns, use_threads=False).to_pylist()
        return rows

    def values(self, column: str) -> list[Any]:
        """One column (`image`, or `image.path` inside a struct) of all rows."""
        return [_inside(next(iter(row.values()))) for row in self.rows([column])]

    def cell(self, column: str, row: int) -> Any:
        """One value of such a column."""
        group = bisect_right(self.ends, row)
        start = self.ends[group - 1] if group else 0
        with self._lock:
            if self._held is None or self._held[0] != (group, column):
                self._held = None  # before the next one is read: never two at a time
                table = self.file.read_row_group(group, columns=[column], use_threads=False)
                self._held = ((group, column), table.column(0))
            value = self._held[1][row - start].as_py()
        return _inside(value)

    def all_null(self, column: str) -> bool:
        """Whether the file's statistics say that a column, given as for `cell`, holds nothing at all."""
        index = [self.file.metadata.schema.column(i).path for i in range(self.file.metadata.num_columns)].index(column)
        for group in range(self.file.num_row_groups):
            chunk = self.file.metadata.row_group(group).column(index)
            counts = chunk.statistics
            if counts is None or not counts.has_null_count or counts.null_count != chunk.num_values:
                return False
        return True


def _inside(value: Any) -> Any:
    """The one field that was read of a struct, or the value itself."""
    return next(iter(value.values())) if isinstance(value, dict) else value


@dataclass(frozen=True)
class ParquetImage:
    """The image bytes of one row. place: the file's path or URL; row: counted from 0."""

    place: str
    column: str
    row: int
    groups: RowGroups = field(compare=False, repr=False)

    @property
    def name(self) -> str:
        return f"{self.place}, row {self.row + 1}"

    def read(self) -> bytes:
        try:
            value = self.groups.cell(self.column, self.row)
        except pa.ArrowException as error:
            raise OSError(f"the Parquet file cannot be read: {error}") from error
        if not value:
            raise OSError(f"column {self.column} holds no bytes")
        return bytes(value)
