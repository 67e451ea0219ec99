"""One folder of a local disk, an object store or a web server, reached by URL through fsspec."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from errno import ENOENT
from threading import Lock
from typing import Any, TypeVar

import fsspec
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from vlmlake.errors import VlmlakeError, without_credentials
from vlmlake.store_schema import local_disk
from vlmlake.store_schema.connection import WEB, connect, protocol
from vlmlake.store_schema.local_disk import Entry
from vlmlake.store_schema.retries import (
    FORBIDDEN,
    NOT_SATISFIABLE,
    BeyondEndError,
    client_errors,
    http_status,
    patiently,
)

AT_ONCE = 16
"""Requests under way together where the file system has no way of its own."""

MEMORY = Lock()
"""Held while `memory://` is asked, which looks whether a file is there and then writes it, in two steps."""

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Storage:
    """A root folder; every path given to its methods is relative to that root and uses forward slashes.

    Picklable, and holds no open file: a process that unpickles it connects anew. url: for messages, without
    credentials.

    Methods raise VlmlakeError where the storage refuses, or does not answer in the attempts that retries.py allows.
    """

    url: str
    fs: fsspec.AbstractFileSystem = field(repr=False)
    root: str = field(repr=False)
    address: str = field(repr=False)
    options: Mapping[str, Any] = field(repr=False)

    @classmethod
    def at(cls, url: str, options: Mapping[str, Any] | None = None) -> Storage:
        """The folder at `url`: a local path, `file://`, `memory://`, `s3://` or any other protocol that fsspec knows.

        options: for fsspec. Listings are never cached, so that another machine's commit is seen at once.

        Raises VlmlakeError if the URL is empty, its protocol unknown, the protocol's package not installed, or an
        option unknown to it.
        """
        fs, root = connect(url, options or {})
        return cls(without_credentials(url), fs, root, url, dict(options or {}))

    def __reduce__(self) -> tuple[Any, ...]:
        return Storage.at, (self.address, self.options)

    @property
    def local(self) -> bool:
        return isinstance(self.fs, LocalFileSystem)

    @property
    def listable(self) -> bool:
        """Whether the storage can say what is there; a web server cannot, and takes nothing either."""
        return protocol(self.address) not in WEB

    @property
    def _distant(self) -> bool:
        return not isinstance(self.fs, LocalFileSystem | MemoryFileSystem)

    def full(self, path: str) -> str:
        return self.root if path == "." else posixpath.join(self.root, path)

    def exists(self, path: str) -> bool:
        """Over the web a file that may not be seen counts as absent: so some servers answer for one that is missing."""
        ask = self.fs.exists if self.listable else self._answers
        return bool(self._ask(path, lambda: ask(self.full(path))))

    def _answers(self, full: str) -> bool:
        """Whether a web server has a file; fsspec takes its every error for a missing one."""
        try:
            self.fs.cat_file(full, start=0, end=1)
        except FileNotFoundError:
            return False
        except client_errors() as error:
            if http_status(error) not in (FORBIDDEN, NOT_SATISFIABLE):
                raise
            return http_status(error) == NOT_SATISFIABLE  # an empty file
        return True

    def entries(self, folder: str) -> tuple[Entry, ...]:
        """Files and folders directly below `folder`, sorted by name; none where the folder is missing."""
        self.require_writable()
        if self.local:
            return local_disk.entries(self.full(folder))
        try:
            listed = self._ask(folder, lambda: self.fs.ls(self.full(folder), detail=True))
        except (FileNotFoundError, NotADirectoryError):
            return ()
        found = (
            _entry(posixpath.basename(item["name"].rstrip("/")), item)
            for item in listed
            if item["name"].rstrip("/") != self.full(folder).rstrip("/")
        )
        return tuple(sorted(found, key=lambda entry: entry.name))

    def entries_of(self, folders: Sequence[str]) -> list[tuple[Entry, ...]]:
        """`entries` of several folders, asked for together."""
        return self._together(self.entries, folders)

    def names(self, folder: str) -> tuple[str, ...]:
        """Names of the files and folders directly below `folder`, sorted; none where the folder is missing."""
        return tuple(entry.name for entry in self.entries(folder))

    def files(self, folder: str) -> dict[str, int]:
        """Bytes of all files below `folder`, in any depth, by path; none where the folder is missing."""
        self.require_writable()
        found = self._ask(folder, lambda: self.fs.find(self.full(folder), detail=True))
        return {posixpath.relpath(path, self.root): item["size"] or 0 for path, item in sorted(found.items())}

    def length(self, path: str) -> int:
        """Bytes of one file. Raises FileNotFoundError where nothing is there."""
        size = self._ask(path, lambda: self.fs.size(self.full(path)))
        if size is None:
            raise VlmlakeError(f"{self.url}/{path}: the server does not say how long it is")
        return int(size)

    def modified(self, path: str) -> datetime | None:
        """When a file was last put, by the storage's clock; none where it is gone."""
        try:
            when: datetime = self._ask(path, lambda: self.fs.modified(self.full(path)))
        except FileNotFoundError:
            return None
        return when if when.tzinfo else when.replace(tzinfo=UTC)

    def modified_all(self, paths: Sequence[str]) -> list[datetime | None]:
        """The same of several files, asked for together."""
        return self._together(self.modified, paths)

    def free(self) -> int | None:
        """Bytes free where the root lies or shall lie; none where that is not a local disk."""
        return local_disk.free(self.root) if self.local else None

    def read(self, path: str) -> bytes:
        """Raises FileNotFoundError where nothing is there."""
        return bytes(self._ask(path, lambda: self.fs.cat_file(self.full(path))))

    def read_all(self, paths: Sequence[str]) -> list[bytes]:
        """Several files, asked for together. Raises FileNotFoundError where one is not there."""
        return self._together(self.read, paths)

    def read_present(self, paths: Sequence[str]) -> list[bytes | None]:
        """Several files, asked for together; none for those that are not there."""
        return self._together(self._read_or_none, paths)

    def _read_or_none(self, path: str) -> bytes | None:
        try:
            return self.read(path)
        except FileNotFoundError:
            return None

    def read_spans(self, spans: Sequence[tuple[str, int, int]]) -> list[bytes]:
        """Parts of files, each (path, first byte, the one behind the last), asked for together.

        A first byte below 0 counts from the file's end, up to there. Raises FileNotFoundError where none is,
        BeyondEndError where a server says that a file ends before.
        """
        if isinstance(self.fs, AsyncFileSystem):
            return self._spans_together(spans)
        return [self.read_span(*span) for span in spans]

    def read_span(self, path: str, start: int, end: int) -> bytes:
        """One part of a file."""
        if self.local:
            return local_disk.read_span(self.full(path), start, end)
        return bytes(self._ask(path, lambda: self.fs.cat_file(self.full(path), start=start, end=end or None)))

    def _spans_together(self, spans: Sequence[tuple[str, int, int]]) -> list[bytes]:
        found: list[Any] = [None] * len(spans)

        def ask() -> None:
            left = [number for number, part in enumerate(found) if not isinstance(part, bytes)]
            paths, starts, ends = zip(*(spans[number] for number in left), strict=True)
            full = [self.full(path) for path in paths]
            parts = self.fs.cat_ranges(full, list(starts), [end or None for end in ends], on_error="return")
            for number, part in zip(left, parts, strict=True):
                wanted = spans[number][2] - spans[number][1]
                if isinstance(part, bytes) and len(part) != wanted:
                    part = OSError(f"{len(part)} bytes came, {wanted} were asked for: does the server know ranges?")
                found[number] = part
            for part, (path, _, _) in zip(found, spans, strict=True):
                if isinstance(part, BaseException):
                    if http_status(part) == NOT_SATISFIABLE:
                        raise BeyondEndError(path) from part
                    raise part

        if spans:
            self._ask(spans[0][0], ask)
        return [bytes(part) for part in found]

    def write(self, path: str, content: bytes | Sequence[bytes]) -> None:
        """Put `content`, whole or in parts, at `path`: a reader sees all of it or nothing, also after a crash.

        Raises VlmlakeError too where the disk is full.
        """
        self.require_writable()
        parts = [content] if isinstance(content, bytes) else content
        if self.local:
            local_disk.replace(self.full(path), parts)
        else:
            self._ask(path, lambda: self.fs.pipe_file(self.full(path), b"".join(parts)))

    def create(self, path: str, content: bytes) -> bool:
        """Like `write`, unless something else is there already; whether `content` is there now.

        Of several that try with different contents, one succeeds.
        """
        self.require_writable()
        if self.local:
            return local_disk.create(self.full(path), content)

        def ask() -> bool:
            try:
                self.fs.pipe_file(self.full(path), content, mode="create")
            except FileExistsError:  # also where an earlier attempt's answer was lost
                return bool(self.fs.cat_file(self.full(path)) == content)
            return True

        return self._ask(path, ask)

    def delete(self, path: str) -> None:
        """Remove one file; nothing happens where it is gone already."""
        self.require_writable()
        with suppress(FileNotFoundError):
            self._ask(path, lambda: self.fs.rm_file(self.full(path)))

    def remove_empty_folders(self, folder: str) -> None:
        """Remove a folder of a local disk and those below it, as far as they hold nothing; elsewhere there are none."""
        if self.local:
            local_disk.remove_empty_folders(self.full(folder))

    def require_writable(self) -> None:
        """Raises VlmlakeError for a web address."""
        if not self.listable:
            raise VlmlakeError(
                f"{self.url} is a web address: it can be read, run by run, and neither listed nor written to"
            )

    def _ask(self, path: str, ask: Callable[[], Answer]) -> Answer:
        try:
            if self._distant:
                return patiently(f"{self.url}/{path}", ask)
            with nullcontext() if self.local else MEMORY:
                return ask()
        except FileNotFoundError:  # the client's own names the address, credentials and all
            raise FileNotFoundError(ENOENT, os.strerror(ENOENT), f"{self.url}/{path}") from None

    def _together(self, ask: Callable[[str], Answer], paths: Sequence[str]) -> list[Answer]:
        if not self._distant or len(paths) < 2:
            return [ask(path) for path in paths]
        with ThreadPoolExecutor(min(AT_ONCE, len(paths)), "vlmlake-reader") as pool:
            return list(pool.map(ask, paths))


def _entry(name: str, item: Mapping[str, Any]) -> Entry:
    is_folder = item["type"] == "directory"
    return Entry(name, 0 if is_folder else item["size"] or 0, is_folder)
