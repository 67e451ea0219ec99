"""Data sets of the Hugging Face hub, or copies of them on a local disk, read by the `datasets` package.

Images stay in the memory-mapped Arrow tables of that package until they are asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vlmlake.errors import VlmlakeError
from vlmlake.ingest.datasets import urls
from vlmlake.ingest.datasets.columns import Columns, Row
from vlmlake.ingest.datasets.example import Example
from vlmlake.ingest.datasets.image_column import ImageColumn
from vlmlake.ingest.datasets.image_folder import ImageFolder
from vlmlake.ingest.datasets.image_source import FileImage, ImageSource
from vlmlake.ingest.datasets.options import Options

PLACE = re.compile(r"([^:@].*?)(?::([^:@/]+))?(?:@([^@/]+))?")
ROWS_AT_ONCE = 256
SAVED = ("dataset_dict.json", "state.json")
"""What `save_to_disk` leaves in a folder, of all splits or of one."""


@dataclass(frozen=True)
class Place:
    """`name[:config][@split]`, where name is `org/name` on the hub or a folder."""

    name: str
    config: str | None
    split: str | None

    @classmethod
    def parse(cls, location: str) -> Place:
        if location and Path(location).expanduser().is_dir():
            return cls(location, None, None)
        parsed = PLACE.fullmatch(location)
        if parsed is None:
            raise VlmlakeError(
                f"hub:{location} names no data set: expected org/name, org/name:config@split or a folder"
            )
        return cls(*parsed.groups())

    @property
    def folder(self) -> Path | None:
        path = Path(self.name).expanduser()
        return path if path.is_dir() or self.name.startswith(("/", "./", "../", "~")) else None

    @property
    def dataset(self) -> str:
        """What its examples are filed under: the last word of the name, and the config where one is asked for."""
        name = self.folder.resolve().name if self.folder else self.name.rpartition("/")[2]
        return f"{name}:{self.config}" if self.config else name


@dataclass(frozen=True)
class HubImage:
    """The image bytes of one row of a split. place: `name@split`; row: counted from 0; data: Arrow-formatted."""

    place: str
    column: str
    row: int
    data: Any = field(compare=False, repr=False)

    @property
    def name(self) -> str:
        return f"{self.place}, row {self.row + 1}"

    def read(self) -> bytes:
        try:
            value = self.data[self.row].column(self.column)[0].as_py()
        except pa.ArrowException as error:
            raise OSError(f"the Arrow table cannot be read: {error}") from error
        content = value["bytes"] if isinstance(value, dict) else value
        if not content:
            raise OSError(f"column {self.column} holds no bytes")
        return bytes(content)


def load(location: str, options: Options) -> list[Example]:
    """Read one split of a data set. location: `org/name`, `org/name:config@split`, or a folder in place of the name.

    A folder is what `save_to_disk` wrote, or holds Parquet files. The split may be left out where there is only one;
    it is the examples' split where no column says another.

    Raises VlmlakeError without the `datasets` package, for a data set, config or split that is not there, a missing
    column (naming those there), a bad cell by its row.
    """
    place = Place.parse(location)
    if place.folder is not None and not place.folder.is_dir():
        raise VlmlakeError(f"no data set at {place.folder}: expected a folder of save_to_disk or of Parquet files")
    with _load_errors(location):
        split, data = _saved(place) if _is_saved(place) else _downloaded(place)
    return _examples(place, split, data, options)


def _is_saved(place: Place) -> bool:
    return place.folder is not None and any((place.folder / name).is_file() for name in SAVED)


def _saved(place: Place) -> tuple[str, Any]:
    from datasets import DatasetDict, load_from_disk

    found = load_from_disk(str(place.folder))
    if isinstance(found, DatasetDict):
        split = _chosen(place, list(found))
        return split, found[split]
    split = str(found.split or place.dataset)
    return _chosen(place, [split]), found


def _downloaded(place: Place) -> tuple[str, Any]:
    from datasets import get_dataset_split_names, load_dataset

    name = str(place.folder or place.name)
    split = place.split or _chosen(place, get_dataset_split_names(name, place.config))
    return split, load_dataset(name, place.config, split=split)


def _chosen(place: Place, there: list[str]) -> str:
    if place.split in there:
        return str(place.split)
    if place.split is None and len(there) == 1:
        return there[0]
    asked = f"no split {place.split}" if place.split else "several splits"
    raise VlmlakeError(f"{place.name} has {asked}: choose one of {', '.join(there)}, as in hub:{place.name}@{there[0]}")


@contextmanager
def _load_errors(location: str) -> Iterator[None]:
    try:
        from datasets.exceptions import DatasetsError
    except ImportError as error:
        raise VlmlakeError(
            f"hub:{location} needs the package datasets ({error}): install vlmlake[ingest,hub]"
        ) from error
    try:
        yield
    except (DatasetsError, OSError, ValueError, pa.ArrowException) as error:
        raise VlmlakeError(f"cannot load hub:{location}: {error}") from error


def _examples(place: Place, split: str, data: Any, options: Options) -> list[Example]:
    label = f"{place.name}@{split}"
    columns = Columns.resolve(label, data.column_names, options.columns)
    images = ImageColumn.of(label, columns.image, data.features.arrow_schema.field(columns.image).type)
    folder = ImageFolder.at(options.images or str(place.folder or f"hf://datasets/{place.name}"), options.storage)
    by_row = data.select_columns([columns.image]).with_format("arrow")
    examples = []
    for index, (values, (name, embedded)) in enumerate(zip(_rows(data, columns), _images(by_row, images), strict=True)):
        row = Row(f"{label}, row {index + 1}", index + 1, place.dataset, split, values)
        if embedded:
            source: ImageSource = HubImage(label, columns.image, index, by_row)
            examples.append(columns.example(row, name or f"{split}#{row.number}", source))
        elif name and images.content and not urls.is_url(name) and Path(name).is_absolute():
            # The package itself writes absolute paths, where it reads a folder of image files.
            examples.append(columns.example(row, Path(name).name, FileImage(Path(name))))
        else:
            examples.append(columns.named_example(row, name, folder))
    return examples


def _rows(data: Any, columns: Columns) -> Iterator[dict[str, Any]]:
    """Everything but the images; classes by their names, as the benchmark spells them."""
    texts = data.select_columns(columns.beside_image).with_format("arrow")
    classes = {name: feature.names for name, feature in texts.features.items() if hasattr(feature, "int2str")}
    for table in texts.iter(ROWS_AT_ONCE):
        for row in table.to_pylist():
            yield {name: _class_name(classes.get(name), value) for name, value in row.items()}


def _class_name(names: list[str] | None, value: Any) -> Any:
    """-1 stands for a class that is not known."""
    if names is None or value is None:
        return value
    return names[value] if value >= 0 else None


def _images(data: Any, images: ImageColumn) -> Iterator[tuple[str | None, bool]]:
    """Per row the image's name and whether its bytes are there; looks at the bytes' null flags, not at the bytes."""
    for table in data.iter(ROWS_AT_ONCE):
        column = table.column(images.column)
        names = _part(column, images.names).to_pylist() if images.names else [None] * len(column)
        there = pc.is_valid(_part(column, images.content)).to_pylist() if images.content else [False] * len(column)
        yield from zip(names, there, strict=True)


def _part(column: Any, path: str) -> Any:
    return pc.struct_field(column, path.rpartition(".")[2]) if pa.types.is_struct(column.type) else column
