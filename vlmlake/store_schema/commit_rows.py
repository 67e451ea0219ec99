"""Whether the rows of a commit are its batch's own: other batches' values are read through nothing else."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from vlmlake.errors import DamagedError
from vlmlake.store_schema.commit import Commit
from vlmlake.store_schema.run_record import RunRecord


def require_own_rows(record: RunRecord, commit: Commit, where: str) -> None:
    """Raises DamagedError if a row names another run or batch, or a place beyond the batch's. where: names the file."""
    number, extents, rows = commit.batch, record.extents, commit.rows
    if not _all_between(rows["run"], record.name, record.name):
        raise DamagedError(f"{where} is damaged: rows of other runs are in its commit")
    if not _all_between(rows["batch"], number, number):
        others = [told for told in pc.unique(rows["batch"]).to_pylist()[:3] if told != number]
        raise DamagedError(f"{where} is damaged: its rows say that they are of batch {others}, not {number}")
    for column, width in (("row", extents.example_rows), ("prefix", extents.prefix_rows)):
        if not _all_between(rows[column], number * width, (number + 1) * width - 1):
            raise DamagedError(
                f"{where} is damaged: its column {column} goes beyond the batch's {width} places from "
                f"{number * width} on"
            )


def _all_between(column: pa.ChunkedArray, least: int | str, most: int | str) -> bool:
    if not len(column):
        return True
    found = pc.min_max(column).as_py()
    return not column.null_count and bool(least <= found["min"] and found["max"] <= most)
