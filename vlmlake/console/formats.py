"""An answer's table as bytes: CSV, JSON, Parquet and Arrow."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from vlmlake.errors import VlmlakeError

TABLE = "table"
BINARY = ("parquet", "arrow")
"""Formats that no terminal shows."""


def encoded(table: pa.Table, form: str) -> bytes:
    """The whole table in one of FORMATS.

    csv: a line of names, then a line per row; a list, struct or map is JSON within its cell. json: an array of objects,
    one per row, as pandas.read_json and DuckDB's read_json take it; null where a float is not finite. parquet: with
    zstd. arrow: the IPC file format, as pyarrow.feather and polars.read_ipc take it.

    Raises VlmlakeError for a statement that answers nothing, and for two columns of one name.
    """
    if not table.schema.names:
        raise VlmlakeError(f"the statement answers nothing that could be written as {form}")
    twice = next((name for name in table.schema.names if table.schema.names.count(name) > 1), None)
    if twice is not None:
        raise VlmlakeError(f"two columns are named {twice}: tell them apart with AS, or ask for --format table")
    return FORMATS[form](table)


def _csv(table: pa.Table) -> bytes:
    columns = [_as_text(column) if _has_parts(column.type) else column for column in table.columns]
    names = io.StringIO()
    csv.writer(names, lineterminator="\n").writerow(table.schema.names)
    rows = io.BytesIO()
    # pyarrow puts every name in quotes.
    options = pa.csv.WriteOptions(include_header=False, quoting_style="needed")
    pa.csv.write_csv(pa.table(columns, names=table.schema.names), rows, options)
    return names.getvalue().encode() + rows.getvalue()


def _json(table: pa.Table) -> bytes:
    rows = ",\n".join(_json_text(row) for batch in table.to_batches() for row in batch.to_pylist())
    return f"[{rows}]\n".encode()


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _arrow(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    with pa.ipc.new_file(buffer, table.schema) as writer:
        writer.write_table(table)
    return buffer.getvalue()


FORMATS: dict[str, Callable[[pa.Table], bytes]] = {"csv": _csv, "json": _json, "parquet": _parquet, "arrow": _arrow}
"""By name, which is the ending of such a file too."""


def require_format(form: str, among: tuple[str, ...] = (TABLE, *FORMATS)) -> None:
    """Raises VlmlakeError for an unknown one."""
    if form not in among:
        raise VlmlakeError(f"format is {form!r}, expected one of {', '.join(among)}")


def _has_parts(kind: pa.DataType) -> bool:
    return bool(pa.types.is_nested(kind) or pa.types.is_decimal(kind) or pa.types.is_binary(kind))


def _as_text(column: pa.ChunkedArray) -> pa.Array:
    texts = [None if value is None else _json_text(value) for value in column.to_pylist()]
    return pa.array([text if text is None else text.strip('"') for text in texts], pa.string())


def _json_text(value: Any) -> str:
    return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    """Of what JSON has: text, numbers, lists and objects."""
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, date | time):
        return value.isoformat()
    return str(value) if isinstance(value, timedelta) or not isinstance(value, str | int | None) else value
