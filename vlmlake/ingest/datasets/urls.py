"""Files named by URL: anything with `://` that fsspec knows (https, s3, gs, memory, ...)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import IO, Any

import fsspec

from vlmlake.errors import VlmlakeError
from vlmlake.store_schema.retries import client_errors, described


def is_url(place: str) -> bool:
    """Whether a place is a URL rather than a path of this machine."""
    return "://" in place


def protocol(url: str) -> str:
    """`s3` for `s3://bucket/a.csv`."""
    return url.partition("://")[0].lower()


def parent(url: str) -> str:
    """The folder of a file: `s3://bucket/a` for `s3://bucket/a/b.csv`; a web address loses its query."""
    return _path(url).rpartition("/")[0]


def file_name(place: str) -> str:
    """The last part of a URL or path; a web address loses its query."""
    return _path(place).rpartition("/")[2]


def _path(url: str) -> str:
    return url.partition("#")[0].partition("?")[0] if protocol(url) in ("http", "https") else url


@cache
def require_protocol(name: str) -> None:
    """Raises VlmlakeError where fsspec does not know the protocol or its package is not installed."""
    try:
        fsspec.get_filesystem_class(name)
    except (ValueError, ImportError) as error:
        extra = "; install vlmlake[http]" if name in ("http", "https") else ""
        raise VlmlakeError(f"cannot read {name}:// URLs: {error}{extra}") from error


def read(url: str, options: Mapping[str, Any]) -> bytes:
    """The whole file. Raises OSError saying why not."""
    with _os_errors():
        fs, path = _file_system(url, options)
        return bytes(fs.cat_file(path))


def open_file(url: str, options: Mapping[str, Any]) -> IO[bytes]:
    """A file to seek in; not for several threads. Raises OSError saying why not."""
    with _os_errors():
        fs, path = _file_system(url, options)
        opened: IO[bytes] = fs.open(path, "rb")
        return opened


def _file_system(url: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    # The options are those of an object store; an HTTP client refuses them as unknown arguments of its request.
    chosen = {} if protocol(url) in ("http", "https") else options
    fs, path = fsspec.core.url_to_fs(url, **chosen)
    return fs, path


@contextmanager
def _os_errors() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError("nothing is there") from error
    except (ValueError, *client_errors()) as error:
        raise OSError(described(error)) from error
