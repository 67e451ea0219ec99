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
    widths = {"row": extents.example_rows, "prefix": extents.prefix_rows}
    sound = (
        _all_between(rows["run"], record.name, record.name)
        and _all_between(rows["batch"], number, number)
        and all(_all_between(rows[name], number * width, (number + 1) * width - 1) for name, width in widths.items())
    )
    if not sound:
        raise DamagedError(f"{where} has rows of other runs, of other batches, or beyond the places of batch {number}")


def _all_between(column: pa.ChunkedArray, least: int | str, most: int | str) -> bool:
    if column.null_count:
        return False
    found = pc.min_max(column).as_py()
    return not len(column) or (least <= found["min"] and found["max"] <= most)
