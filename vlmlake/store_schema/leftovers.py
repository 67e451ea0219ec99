"""What lies in a lake and belongs to nothing visible: found by name, and removed once the storage has had it for long.

How old a file is, the storage's own clock says, of which a small file that is put and removed tells the time: the clock
of a writer or of this machine may be wrong by a day and nothing changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import uuid4

from vlmlake.errors import VlmlakeError
from vlmlake.store_schema import paths
from vlmlake.store_schema.lake_files import Group, Kind, sort_files
from vlmlake.store_schema.local_disk import WRITING
from vlmlake.store_schema.storage import Storage
from vlmlake.store_schema.uploads import Upload, abort_upload, open_uploads

OLDER_THAN = 3600.0
"""Seconds after which nobody is still at work on a file that is put in one go."""


@dataclass(frozen=True)
class Leftover:
    """kind: `temporary`, a file that was never completed; `shard`, one of a batch without a commit; `commit`, of no
    batch of the plan; `creation`, of a run whose creation was cut off; `note`, of a worker of a finished run; `upload`,
    begun and not ended; `unknown`, nothing that vlmlake writes there, which stays.

    age: seconds, of the youngest file of the same batch or creation. young: not old enough to be removed. put: when the
    storage got it. needs_absent: a file that, if it is there by now, says that this is no leftover. upload: where it is
    one.
    """

    kind: Kind | Literal["upload"]
    path: str
    bytes: int
    age: float
    young: bool
    put: datetime
    needs_absent: str | None = None
    upload: Upload | None = None

    @property
    def removable(self) -> bool:
        return self.kind != "unknown" and not self.young


def find_leftovers(storage: Storage, run: str | None = None, older_than: float = OLDER_THAN) -> tuple[Leftover, ...]:
    """All of them, or those in one run's folder, by path. older_than: seconds; what is younger is `young`.

    Raises VlmlakeError where the storage lists nothing or takes no file.
    """
    now = storage_time(storage)
    folder = f"{paths.RUNS}/{run}" if run else ""
    sizes = storage.files(folder)
    groups = sort_files(storage, sizes)
    every = [path for group in groups for path in group.paths]
    times = {path: when for path, when in zip(every, storage.modified_all(every), strict=True) if when is not None}
    found = [leftover for group in groups for leftover in _of_group(group, sizes, times, now, older_than)]
    for upload in open_uploads(storage, folder):
        age = (now - upload.begun).total_seconds()
        found.append(Leftover("upload", upload.path, 0, age, age < older_than, upload.begun, upload=upload))
    return tuple(sorted(found, key=lambda leftover: leftover.path))


def remove_leftovers(storage: Storage, found: Sequence[Leftover]) -> tuple[Leftover, ...]:
    """Remove what is removable and still as it was found; says what that was. Others may do so at the same time."""
    removed = [leftover for leftover in found if leftover.removable and _remove(storage, leftover)]
    for run in {leftover.path.split("/")[1] for leftover in removed if leftover.kind == "creation"}:
        storage.remove_empty_folders(f"{paths.RUNS}/{run}")
    return tuple(removed)


def storage_time(storage: Storage) -> datetime:
    """What time it is by the storage's clock. Raises VlmlakeError if the file that tells it does not stay."""
    path = f"{WRITING}{uuid4().hex}"
    storage.write(path, b"")
    try:
        now = storage.modified(path)
    finally:
        storage.delete(path)
    if now is None:
        raise VlmlakeError(f"{storage.url} does not tell the time: {path} was removed by others; run it again")
    return now


def _of_group(
    group: Group, sizes: Mapping[str, int], times: Mapping[str, datetime], now: datetime, older_than: float
) -> list[Leftover]:
    there = [path for path in group.paths if path in times]
    if not there:
        return []
    age = (now - max(times[path] for path in there)).total_seconds()
    return [
        Leftover(group.kind, path, sizes[path], age, age < older_than, times[path], group.needs_absent)
        for path in there
    ]


def _remove(storage: Storage, leftover: Leftover) -> bool:
    """Whether it was removed: not where a writer has come back to it, or has committed what it belongs to."""
    if leftover.upload:
        abort_upload(storage, leftover.upload)
        return True
    if leftover.needs_absent and storage.exists(leftover.needs_absent):
        return False
    if storage.modified(leftover.path) != leftover.put:
        return False
    storage.delete(leftover.path)
    return True
