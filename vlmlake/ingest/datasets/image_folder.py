"""Images that a benchmark names: relative to one folder, local or remote, or each by a URL of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from vlmlake.errors import VlmlakeError
from vlmlake.ingest.datasets import urls
from vlmlake.ingest.datasets.image_source import FileImage, ImageSource, UrlImage

LOCAL_PROTOCOLS = ("file", "local")


@dataclass(frozen=True)
class ImageFolder:
    """root: a local folder or a URL. No name leads out of it into another file of this machine."""

    root: str
    options: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @classmethod
    def at(cls, place: str, options: Mapping[str, Any]) -> ImageFolder:
        """Raises VlmlakeError where `place` is a URL that fsspec cannot read, or no folder of this machine."""
        if urls.is_url(place):
            urls.require_protocol(urls.protocol(place))
            return cls(place, options)
        folder = Path(place).expanduser()
        if not folder.is_dir():
            raise VlmlakeError(f"no folder of images at {folder}: name it with --images")
        return cls(str(folder), options)

    def source(self, where: str, name: str) -> ImageSource:
        """The image called `name` by the row at `where`.

        Raises VlmlakeError for a name that leaves the folder and for a URL that fsspec cannot read.
        """
        if name.startswith("data:"):
            raise VlmlakeError(f"{where}: the image is written into the row as a data: URL: save it as a file")
        if urls.is_url(name):
            if urls.protocol(name) in LOCAL_PROTOCOLS or "::" in name:
                raise self._outside(where, name)
            urls.require_protocol(urls.protocol(name))
            return UrlImage(name, self.options)
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise self._outside(where, name)
        if urls.is_url(self.root):
            return UrlImage(f"{self.root.rstrip('/')}/{path}", self.options)
        return FileImage(Path(self.root) / path)

    def _outside(self, where: str, name: str) -> VlmlakeError:
        return VlmlakeError(f"{where}: image {name} lies outside {self.root}: name the folder it lies in with --images")
