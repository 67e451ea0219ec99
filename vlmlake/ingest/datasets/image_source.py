"""Where an image's bytes come from: the contract, and the two plainest places, a file on disk and a URL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from vlmlake.errors import without_credentials
from vlmlake.ingest.datasets import urls


class ImageSource(Protocol):
    """One image, not read yet. Hashable and equal to every other source of the same bytes' place.

    Nothing is held between reads but at most one row group of a Parquet file, and several threads may read at once.
    """

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    def read(self) -> bytes:
        """The encoded image as it lies there (PNG, JPEG, ...). Raises OSError saying what is wrong with it."""
        ...


@dataclass(frozen=True)
class FileImage:
    """A file on a local disk."""

    path: Path

    @property
    def name(self) -> str:
        return str(self.path)

    def read(self) -> bytes:
        return self.path.read_bytes()


@dataclass(frozen=True)
class UrlImage:
    """A file that fsspec reaches by its URL."""

    url: str
    options: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def name(self) -> str:
        return without_credentials(self.url)

    def read(self) -> bytes:
        return urls.read(self.url, self.options)
