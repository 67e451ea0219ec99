"""A local disk: files that are whole or not there, also after a crash."""

from __future__ import annotations

import errno
import os
import posixpath
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from uuid import NAMESPACE_URL, uuid4, uuid5

from vlmlake.errors import VlmlakeError

WRITING = ".writing-"
"""Beginning of the names of files that are not whole yet."""

NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
CLAIM_SECONDS = 10.0
"""How long a writer waits for another that is giving a file its name, on a disk without hard links."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Entry:
    """A file or folder of a listing. bytes: 0 for a folder."""

    name: str
    bytes: int
    is_folder: bool


def entries(folder: str) -> tuple[Entry, ...]:
    """Files and folders directly below `folder`, sorted by name; none where the folder is missing."""
    found = []
    try:
        with os.scandir(folder) as listed:
            for item in listed:
                with suppress(FileNotFoundError):
                    facts, is_folder = item.stat(), item.is_dir()
                    found.append(Entry(item.name, 0 if is_folder else facts.st_size, is_folder))
    except (FileNotFoundError, NotADirectoryError):
        return ()
    return tuple(sorted(found, key=lambda entry: entry.name))


def read_span(full: str, start: int, end: int) -> bytes:
    """The part of a file from byte `start`, counted from its end if below 0, up to `end`."""
    with open(full, "rb") as file:
        file.seek(start if start >= 0 else max(0, os.fstat(file.fileno()).st_size + start))
        return file.read(end - start)


def replace(full: str, parts: Sequence[bytes]) -> None:
    """Put a file in the place of what is there. Raises VlmlakeError where the disk is full."""
    _place(full, parts, os.replace)


def create(full: str, content: bytes) -> bool:
    """Put a file where none is; whether that was so."""
    return _place(full, [content], _link)


def free(folder: str) -> int:
    """Bytes free where a folder lies or shall lie."""
    folder = os.path.abspath(folder)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return shutil.disk_usage(folder).free


def remove_empty_folders(folder: str) -> None:
    """Remove a folder and those below it, as far as they hold nothing."""
    for place, _, _ in os.walk(folder, topdown=False):
        with suppress(OSError):
            os.rmdir(place)


def _place(full: str, parts: Sequence[bytes], move: Callable[[str, str], None]) -> bool:
    """Write beside the target and move there; false where `move` finds something in its place."""
    folder = os.path.dirname(full)
    temporary = posixpath.join(folder, f"{WRITING}{uuid4().hex}")
    try:
        _make_folder(folder)
        with open(temporary, "xb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        try:
            move(temporary, full)
        except FileExistsError:
            return False
    except OSError as error:
        if error.errno in FULL:
            raise VlmlakeError(
                f"{full}: {error.strerror}. What was committed is kept; make room and run the same command again"
            ) from error
        raise
    finally:
        with suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(temporary)
    _sync_path(folder)
    return True


def _make_folder(folder: str) -> None:
    """Make a folder and those above it, each entry safe on the disk."""
    if folder and not os.path.isdir(folder):
        above = os.path.dirname(folder)
        _make_folder(above)
        os.makedirs(folder, exist_ok=True)
        _sync_path(above)


def _link(temporary: str, full: str) -> None:
    """Give a file its name unless that is taken, in one step where the disk knows hard links."""
    try:
        os.link(temporary, full)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        _claim_and_replace(temporary, full)


def _claim_and_replace(temporary: str, full: str) -> None:
    """The same under a lock: a file beside it that only one can make, and that is named after it."""
    folder, name = os.path.split(full)
    claim = posixpath.join(folder, f"{WRITING}{uuid5(NAMESPACE_URL, name).hex}")
    until = time.monotonic() + CLAIM_SECONDS
    while not _made(claim):
        if time.monotonic() > until:
            raise VlmlakeError(f"{claim}: left by a writer that was cut off; `vlmlake gc --delete` removes it")
        time.sleep(0.001)
    try:
        if os.path.exists(full):
            raise FileExistsError(full)
        os.replace(temporary, full)
    finally:
        os.unlink(claim)


def _made(claim: str) -> bool:
    try:
        os.close(os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return False
    return True


def _sync_path(path: str) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
