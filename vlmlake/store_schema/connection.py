"""From a URL to a file system that gives up soon: how often it is asked again is said elsewhere (retries.py)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import fsspec

from vlmlake.errors import VlmlakeError, without_credentials
from vlmlake.store_schema.retries import client_errors, described

WEB = ("http", "https")
S3 = ("s3", "s3a")
EXTRAS = {"http": "http", "https": "http", "s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "az": "azure"}
"""The extra of vlmlake that brings a protocol's package."""

CONNECT_SECONDS, READ_SECONDS = 10, 60
S3_CONFIG = {
    "connect_timeout": CONNECT_SECONDS,
    "read_timeout": READ_SECONDS,
    "retries": {"mode": "standard", "total_max_attempts": 1},
}
"""botocore's own attempts would multiply with ours (retries.py)."""


def connect(url: str, options: Mapping[str, Any]) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system of a URL, and the folder in it; listings are never cached.

    Raises VlmlakeError as Storage.at does.
    """
    if not url:
        raise VlmlakeError("the URL of the lake is empty: expected a folder or a URL like s3://bucket/lake")
    shown, scheme = without_credentials(url), protocol(url)
    if scheme in WEB and ("?" in url or "#" in url):
        raise VlmlakeError(f"cannot open {shown}: expected an address without ? and #, to which paths are added")
    try:
        fs, root = fsspec.core.url_to_fs(url, use_listings_cache=False, **_settings(scheme, options))
        if scheme in S3:
            fs.connect()  # an option that it does not know would come out with the first request
    except ImportError as error:
        extra = f"; pip install 'vlmlake[{EXTRAS[scheme]}]'" if scheme in EXTRAS else ""
        raise VlmlakeError(f"cannot open {shown}: {error}{extra}") from error
    except (ValueError, TypeError, *client_errors()) as error:
        raise VlmlakeError(f"cannot open {shown}: {described(error)}") from error
    if hasattr(fs, "retries"):
        fs.retries = 1
    return fs, root.rstrip("/") or ("/" if scheme == "file" else "")


def protocol(url: str) -> str:
    """`s3` for `s3://bucket/a`, `file` for a path."""
    return url.partition("://")[0].lower() if "://" in url else "file"


def _settings(protocol: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """What fsspec is told: the given options over ours."""
    if protocol in S3:
        return {**options, "config_kwargs": {**S3_CONFIG, **options.get("config_kwargs", {})}}
    if protocol in WEB:
        return {"client_kwargs": {"timeout": _patience()}, **options}
    return dict(options)


def _patience() -> Any:
    """aiohttp's: none for the whole of a large file, some for each part of it."""
    import aiohttp

    return aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS)
