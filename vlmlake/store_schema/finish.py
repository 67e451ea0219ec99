"""Finishing a run: its commits in one file and its Zarr metadata in one document, for readers far away."""

from __future__ import annotations

from vlmlake.errors import VlmlakeError
from vlmlake.store_schema import paths
from vlmlake.store_schema.batch_list import encode_batch_list, remove_batch_list
from vlmlake.store_schema.commits import batch_files, look
from vlmlake.store_schema.index import refresh_index
from vlmlake.store_schema.metadata import finished_group
from vlmlake.store_schema.run_record import RunRecord
from vlmlake.store_schema.storage import Storage
from vlmlake.store_schema.workers import remove_notes


class UnfinishedError(VlmlakeError):
    """A run that cannot be finished. missing: its batches that are not visible."""

    def __init__(self, message: str, missing: tuple[int, ...]) -> None:
        super().__init__(message)
        self.missing = missing


def is_finished(storage: Storage, run: str) -> bool:
    """Whether the run has its batch list."""
    return storage.exists(paths.batch_list(run))


def finish(storage: Storage, record: RunRecord) -> None:
    """Consolidate a run of which every batch is committed; done again it changes nothing.

    Several workers may do so at once: they write the same bytes, and whoever wrote looks once more whether that is what
    the commits say.

    Raises UnfinishedError if a batch is missing or broken.
    """
    content, written = _batch_list(storage, record), None
    _put(storage, *finished_group(record))
    remove_notes(storage, record.name)
    while content != written:
        _put(storage, paths.batch_list(record.name), content)
        written = content
        try:
            content = _batch_list(storage, record)
        except UnfinishedError:
            remove_batch_list(storage, record.name)
            raise
    refresh_index(storage)


def _batch_list(storage: Storage, record: RunRecord) -> bytes:
    # Lengths first: of a commit that is replaced meanwhile the list then has the old one, which no reader takes for it.
    sizes = batch_files(storage, record)
    # What an older batch list says of a batch may be out of date, so every commit is read.
    state, planned = look(storage, record, fresh=True), record.extents.batches
    if len(state.committed.keys() & sizes.keys()) < planned:
        broken = "".join(f"; batch {number} is broken: {why}" for number, why in sorted(state.broken.items())[:3])
        raise UnfinishedError(
            f"run {record.name} of {storage.url} has {len(state.committed)} of {planned} batches{broken}: "
            "`vlmlake extract` computes the others",
            missing=tuple(number for number in range(planned) if number not in state.committed),
        )
    return encode_batch_list(record.name, state.committed, sizes)


def _put(storage: Storage, path: str, content: bytes) -> None:
    """Nothing is written that is there already."""
    try:
        there = storage.read(path)
    except FileNotFoundError:
        there = None
    if there != content:
        storage.write(path, content)
