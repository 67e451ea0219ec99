"""Any table of questions: JSON Lines or a JSON array, CSV, Parquet; a local path or a URL that fsspec knows.

The image column holds paths below the folder of images, URLs, or, in Parquet, the images' bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import polars as pl
import pyarrow as pa

from vlmlake.errors import VlmlakeError
from vlmlake.ingest.datasets import urls
from vlmlake.ingest.datasets.columns import Columns, Row
from vlmlake.ingest.datasets.example import Example
from vlmlake.ingest.datasets.image_column import ImageColumn
from vlmlake.ingest.datasets.image_folder import ImageFolder
from vlmlake.ingest.datasets.json_rows import json_rows
from vlmlake.ingest.datasets.options import Options
from vlmlake.ingest.datasets.parquet_images import ParquetImage, RowGroups

JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
ROW_WANTED = "expected an object, one example"


def load(location: str, options: Options) -> list[Example]:
    """Read one file; its ending says what it is. Its name is the data set and, where no column says, the split.

    Raises VlmlakeError for a file that cannot be read, a missing column (naming those there), a bad cell by its row.
    """
    place = _place(location)
    suffix = PurePosixPath(urls.file_name(place)).suffix.lower()
    if suffix in JSON_SUFFIXES:
        return _from_rows(place, list(_json_rows(place, options)), options)
    if suffix == ".csv":
        return _from_rows(place, list(_csv_rows(place, options)), options)
    if suffix == ".parquet":
        return _from_parquet(place, options)
    raise VlmlakeError(f"cannot tell what {location} is: expected a name in .jsonl, .ndjson, .json, .csv or .parquet")


def _place(location: str) -> str:
    if urls.is_url(location):
        urls.require_protocol(urls.protocol(location))
        return location
    path = Path(location).expanduser()
    if not path.is_file():
        raise VlmlakeError(f"no table at {path}: expected a file in .jsonl, .ndjson, .json, .csv or .parquet")
    return str(path)


def _content(place: str, options: Options) -> bytes:
    try:
        return urls.read(place, options.storage) if urls.is_url(place) else Path(place).read_bytes()
    except OSError as error:
        raise VlmlakeError(f"cannot read the table {place}: {error}") from error


def _json_rows(place: str, options: Options) -> Iterator[tuple[str, dict[str, Any]]]:
    for where, row in json_rows(place, _content(place, options), ROW_WANTED):
        if not isinstance(row, dict):
            raise VlmlakeError(f"{where}: {ROW_WANTED}, got {type(row).__name__}")
        yield where, row


def _csv_rows(place: str, options: Options) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        # Every cell as text: ids keep their zeros, and a column of yes and no stays one.
        frame = pl.read_csv(BytesIO(_content(place, options)), infer_schema=False)
    except pl.exceptions.NoDataError:
        return
    except pl.exceptions.PolarsError as error:
        raise VlmlakeError(f"{place} is not a CSV table in UTF-8: {error}") from error
    for number, row in enumerate(frame.iter_rows(named=True), start=1):
        yield f"{place}, row {number}", row


def _from_rows(place: str, rows: list[tuple[str, dict[str, Any]]], options: Options) -> list[Example]:
    if not rows:
        return []
    there = list(dict.fromkeys(column for _, values in rows for column in values))
    columns = Columns.resolve(place, there, options.columns)
    folder = ImageFolder.at(options.images or _beside(place), options.storage)
    stem = _stem(place)
    return [
        columns.named_example(Row(where, number, stem, stem, values), values.get(columns.image), folder)
        for number, (where, values) in enumerate(rows, start=1)
    ]


def _from_parquet(place: str, options: Options) -> list[Example]:
    try:
        groups = RowGroups(place, options.storage)
        columns = Columns.resolve(place, groups.schema.names, options.columns)
        images = ImageColumn.of(place, columns.image, groups.schema.field(columns.image).type)
        rows = groups.rows(columns.beside_image)
        names = groups.values(images.names) if images.names else [None] * len(rows)
    except (OSError, pa.ArrowException) as error:
        raise VlmlakeError(f"cannot read the table {place}: {error}") from error
    embedded = images.content if images.content and not groups.all_null(images.content) else None
    folder = ImageFolder.at(options.images or _beside(place), options.storage)
    stem = _stem(place)
    examples = []
    for index, (values, name) in enumerate(zip(rows, names, strict=True)):
        row = Row(f"{place}, row {index + 1}", index + 1, stem, stem, values)
        if embedded:
            source = ParquetImage(place, embedded, index, groups)
            examples.append(columns.example(row, name or f"{stem}#{row.number}", source))
        else:
            examples.append(columns.named_example(row, name, folder))
    return examples


def _beside(place: str) -> str:
    """The folder that the table lies in."""
    return urls.parent(place) if urls.is_url(place) else str(Path(place).parent)


def _stem(place: str) -> str:
    return PurePosixPath(urls.file_name(place)).stem
