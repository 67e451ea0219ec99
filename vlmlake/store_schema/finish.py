"""Finishing a run: its commits in one file and its Zarr metadata in one document, for readers far away."""

from __future__ import annotations

from vlmlake.errors import VlmlakeError
from vlmlake.store_schema import paths
from vlmlake.store_schema.batch_list import encode_batch_list
from vlmlake.store_schema.commits import batch_files, look
from vlmlake.store_schema.index import refresh_index
from vlmlake.store_schema.metadata import finished_group
from vlmlake.store_schema.run_record import RunRecord
from vlmlake.store_schema.storage import Storage
from vlmlake.store_schema.workers import remove_notes


class UnfinishedError(VlmlakeError):
    """A run that cannot be finished. missing: how many of its batches are not visible."""

    def __init__(self, message: str, missing: int) -> None:
        super().__init__(message)
        self.missing = missing


def is_finished(storage: Storage, run: str) -> bool:
    """Whether the run has its batch list."""
    return storage.exists(paths.batch_list(run))


def finish(storage: Storage, record: RunRecord) -> None:
    """Consolidate a run of which every batch is committed; done again it changes nothing.

    Several workers may do so at once: they write the same bytes.

    Raises UnfinishedError if a batch is missing or broken.
    """
    # Lengths first: of a commit that is replaced meanwhile the list then has the old one, which no reader takes for it.
    sizes = batch_files(storage, record)
    # What an older batch list says of a batch may be out of date, so every commit is read.
    state, planned = look(storage, record, fresh=True), record.extents.batches
    if len(state.committed.keys() & sizes.keys()) < planned:
        broken = "".join(f"; batch {number} is broken: {why}" for number, why in sorted(state.broken.items())[:3])
        raise UnfinishedError(
            f"run {record.name} of {storage.url} has {len(state.committed)} of {planned} batches{broken}: "
            "`vlmlake extract` computes the others",
            missing=planned - len(state.committed),
        )
    content = encode_batch_list(record.name, state.committed, sizes)
    for path, there in (finished_group(record), (paths.batch_list(record.name), content)):
        if not _holds(storage, path, there):
            storage.write(path, there)
    remove_notes(storage, record.name)
    refresh_index(storage)


def _holds(storage: Storage, path: str, content: bytes) -> bool:
    try:
        return storage.read(path) == content
    except FileNotFoundError:
        return False
