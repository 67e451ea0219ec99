"""Multipart uploads to S3 that nobody ended: they take room, and no listing of files shows them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from vlmlake.store_schema.retries import patiently
from vlmlake.store_schema.storage import Storage


@dataclass(frozen=True)
class Upload:
    """path: below the lake. begun: by the storage's clock."""

    path: str
    key: str
    upload: str
    begun: datetime


def open_uploads(storage: Storage, folder: str = "") -> tuple[Upload, ...]:
    """Those that were begun below a folder and neither completed nor aborted; none where the storage is not S3."""
    if not hasattr(storage.fs, "call_s3"):
        return ()
    bucket, _, root = storage.root.partition("/")
    root = f"{root}/" if root else ""
    prefix = f"{root}{folder}/" if folder else root
    return tuple(
        Upload(item["Key"].removeprefix(root), item["Key"], item["UploadId"], item["Initiated"])
        for page in _pages(storage, bucket, prefix)
        for item in page.get("Uploads", [])
    )


def abort_upload(storage: Storage, upload: Upload) -> None:
    """Give up what was uploaded; nothing happens where it is gone already."""
    bucket = storage.root.partition("/")[0]
    with suppress(FileNotFoundError):
        _ask(storage, "abort_multipart_upload", Bucket=bucket, Key=upload.key, UploadId=upload.upload)


def _pages(storage: Storage, bucket: str, prefix: str) -> Iterator[dict[str, Any]]:
    marker: dict[str, str] = {}
    while True:
        page = _ask(storage, "list_multipart_uploads", Bucket=bucket, Prefix=prefix, **marker)
        yield page
        if not page.get("IsTruncated"):
            return
        marker = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}


def _ask(storage: Storage, call: str, **arguments: str) -> dict[str, Any]:
    answer: dict[str, Any] = patiently(f"{call} of {storage.url}", lambda: storage.fs.call_s3(call, **arguments))
    return answer
