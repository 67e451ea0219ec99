"""One folder of a local disk or an object store, reached by URL through fsspec: the only file that touches bytes."""

from __future__ import annotations

import os
import posixpath
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import fsspec
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from fsspec.implementations.local import LocalFileSystem
from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore

from vlmlake.errors import VlmlakeError


@dataclass(frozen=True)
class Storage:
    """A root folder; every path given to its methods is relative to that root and uses forward slashes."""

    url: str
    fs: fsspec.AbstractFileSystem
    root: str

    @classmethod
    def at(cls, url: str, options: Mapping[str, Any] | None = None) -> Storage:
        """The folder at `url`: a local path, `file://`, `memory://`, `s3://` or any other protocol that fsspec knows.

        Listings are never cached, so that another machine's commit is seen at once.

        Raises VlmlakeError if the URL is empty, its protocol unknown or the protocol's package not installed.
        """
        if not url:
            raise VlmlakeError("the URL of the lake is empty: expected a folder or a URL like s3://bucket/lake")
        try:
            fs, root = fsspec.core.url_to_fs(url, use_listings_cache=False, **(options or {}))
        except (ValueError, ImportError) as error:
            raise VlmlakeError(f"cannot open {url}: {error}") from error
        return cls(url=url, fs=fs, root=root.rstrip("/"))

    @property
    def local(self) -> bool:
        return isinstance(self.fs, LocalFileSystem)

    def full(self, path: str) -> str:
        return posixpath.join(self.root, path)

    def exists(self, path: str) -> bool:
        return bool(self.fs.exists(self.full(path)))

    def names(self, folder: str) -> tuple[str, ...]:
        """Names of the files and folders directly below `folder`, sorted; none where the folder is missing."""
        try:
            listed = self.fs.ls(self.full(folder), detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return ()
        return tuple(sorted(posixpath.basename(path.rstrip("/")) for path in listed))

    def size(self, path: str) -> int:
        """Bytes below `path`; 0 where nothing is there."""
        try:
            return int(self.fs.du(self.full(path)))
        except FileNotFoundError:
            return 0

    def free(self) -> int | None:
        """Bytes free where the root lies or shall lie; none where that is not a local disk."""
        if not self.local:
            return None
        folder = os.path.abspath(self.root)
        while not os.path.isdir(folder):
            folder = os.path.dirname(folder)
        return shutil.disk_usage(folder).free

    def read(self, path: str) -> bytes:
        """Raises FileNotFoundError where nothing is there."""
        return bytes(self.fs.cat_file(self.full(path)))

    def write(self, path: str, content: bytes | Sequence[bytes]) -> None:
        """Put `content`, whole or in parts, at `path`: a reader sees all of it or nothing, also after a crash."""
        full = self.full(path)
        parts = [content] if isinstance(content, bytes) else content
        if not self.local:
            self.fs.pipe_file(full, b"".join(parts))
            return
        folder = os.path.dirname(full)
        os.makedirs(folder, exist_ok=True)
        temporary = posixpath.join(folder, f".writing-{uuid4().hex}")
        try:
            with open(temporary, "xb") as file:
                file.writelines(parts)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, full)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        _sync_path(folder)

    def files(self, folder: str) -> list[str]:
        """Paths of all files below `folder`, in any depth; none where the folder is missing."""
        return sorted(posixpath.relpath(path, self.root) for path in self.fs.find(self.full(folder)))

    def sync(self, paths: Iterable[str]) -> None:
        """Wait until the content of local files is on the disk; object stores promise that with every answer."""
        if self.local:
            for path in paths:
                _sync_path(self.full(path))

    def zarr_store(self, path: str, read_only: bool) -> Store:
        """The folder `path` as a zarr store. Local disks get LocalStore, which replaces files whole."""
        if self.local:
            return LocalStore(self.full(path), read_only=read_only)
        if self.fs.async_impl:
            protocol = self.fs.protocol if isinstance(self.fs.protocol, str) else self.fs.protocol[0]
            fs = fsspec.filesystem(protocol, **{**self.fs.storage_options, "asynchronous": True})
        else:
            fs = AsyncFileSystemWrapper(self.fs, asynchronous=True)
        return FsspecStore(fs, path=self.full(path), read_only=read_only)


def _sync_path(path: str) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
