"""Copying a run, or a selection of it, into another lake: batch by batch, each committed there once it is whole."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from vlmlake.errors import DamagedError
from vlmlake.store_schema.arrays import shard_file, write_batch
from vlmlake.store_schema.commit import Commit
from vlmlake.store_schema.commits import commit_shards, create_run, look, record_skipped, run_exists, visible, withdraw
from vlmlake.store_schema.counted_storage import CountedStorage
from vlmlake.store_schema.finish import finish, is_finished
from vlmlake.store_schema.lake import create_lake
from vlmlake.store_schema.run import Run
from vlmlake.store_schema.run_record import RunRecord
from vlmlake.store_schema.schema import ONCE_ARRAYS
from vlmlake.store_schema.selection import Part, Selected, Selection, select
from vlmlake.store_schema.storage import Storage
from vlmlake.store_schema.stored_array import StoredArray

EVERYTHING = Selection()

Put = Callable[[Storage], Commit]
"""Puts one batch's shards into a lake; what its commit shall say."""


@dataclass(frozen=True)
class Copied:
    """One run as it is in the target now. examples, batches: there; copied: batches that this call brought; read,
    written: its bytes. finished: whether every batch of the run is there.
    """

    run: str
    examples: int
    batches: int
    copied: int
    read: int
    written: int
    finished: bool


def copy_run(
    run: Run, target: str, selection: Selection = EVERYTHING, target_options: Mapping[str, Any] | None = None
) -> Copied:
    """Copy the visible batches of a run to the lake at `target`, which is made where there is none.

    All of a run keeps its name and its shards' bytes. A selection is a run of its own with the same values, named after
    what was selected. What is there already is not copied again, so a copy that was cut off is gone on with by the same
    call. What analyses found is not copied.

    Raises UnknownNameError for a name that the run does not have, VlmlakeError if no example is chosen, DamagedError if
    something that is to be copied is damaged: what was copied before that is kept.
    """
    counted = CountedStorage.of(run.storage)
    source = replace(run, storage=counted)
    commits = visible(counted, run.record)
    if selection.everything:
        record, puts = run.record, {number: partial(_put_shards, source, one) for number, one in commits.items()}
    else:
        selected = select(run.record, commits, selection)
        record, puts = (
            selected.record,
            {part.number: partial(_put_part, source, selected, part) for part in selected.parts},
        )
    place = CountedStorage.of(create_lake(target, target_options).storage)
    _lay_out(source, place, record, skipped=selection.everything)
    copied = _copy_batches(place, record, puts)
    state = look(place, record)
    complete = len(state.committed) == record.extents.batches
    if complete and (copied or not is_finished(place, record.name)):
        finish(place, record)
    return Copied(
        run=record.name,
        examples=sum(commit.rows.num_rows for commit in state.committed.values()),
        batches=len(state.committed),
        copied=copied,
        read=counted.bytes_read,
        written=place.bytes_written,
        finished=complete,
    )


def _lay_out(source: Run, target: Storage, record: RunRecord, skipped: bool) -> None:
    if not run_exists(target, record):
        once = {
            spec.name: StoredArray(source.storage, source.record, spec, None, {}, raw=True)[:] for spec in ONCE_ARRAYS
        }
        create_run(target, record, once, source.vocabulary)
    if skipped:
        record_skipped(target, record.name, source.skipped_rows().to_pylist())


def _copy_batches(target: Storage, record: RunRecord, puts: Mapping[int, Put]) -> int:
    """Copy what is not there; how many batches that were."""
    state = look(target, record, fresh=True)
    missing = [number for number in puts if number not in state.committed]
    withdraw(target, record, [number for number in missing if number in state.broken])
    for number in missing:
        commit_shards(target, record, number, partial(puts[number], target))
    return len(missing)


def _put_shards(source: Run, commit: Commit, target: Storage) -> Commit:
    """The batch's shards as they are. Raises DamagedError if one is not what its commit says."""
    files = {spec.name: shard_file(source.record, spec, commit.batch) for spec in source.record.batch_specs}
    where = f"batch {commit.batch} of {source.name} of {source.storage.url} is damaged"
    try:
        contents = dict(zip(files, source.storage.read_all(list(files.values())), strict=True))
    except FileNotFoundError as error:
        gone = next((path for path in files.values() if not source.storage.exists(path)), "a shard")
        raise DamagedError(f"{where}: {gone} is missing; `vlmlake verify` says what else is") from error
    for name, content in contents.items():
        said = commit.shards[name]
        if (len(content), zlib.crc32(content)) != (said.bytes, said.crc32):
            raise DamagedError(
                f"{where}: {files[name]} is not what its commit says; `vlmlake verify` says what else is"
            )
    for name, content in contents.items():
        target.write(files[name], content)
    return commit


def _put_part(source: Run, selected: Selected, part: Part, target: Storage) -> Commit:
    arrays = _PartArrays(source, selected, part)
    shards = write_batch(target, selected.record, part.number, arrays)
    return Commit(selected.record.name, part.number, shards, part.table)


@dataclass(frozen=True, eq=False)
class _PartArrays(Mapping[str, np.ndarray]):
    """The values of one batch of a selection, in the dtype of the store; each array is read when it is asked for."""

    source: Run
    selected: Selected
    part: Part

    def __getitem__(self, name: str) -> np.ndarray:
        spec = next(spec for spec in self.selected.record.batch_specs if spec.name == name)
        rows = self.part.rows if spec.dimensions[0] == "example" else self.part.prefixes
        shards = {self.part.source.batch: self.part.source.shards[name]}
        stored = StoredArray(self.source.storage, self.source.record, spec, rows, shards, raw=True)
        layers = list(self.selected.layers)
        return stored[tuple(layers if dimension == "layer" else slice(None) for dimension in spec.dimensions)]

    def __iter__(self) -> Iterator[str]:
        return (spec.name for spec in self.selected.record.batch_specs)

    def __len__(self) -> int:
        return len(self.selected.record.batch_specs)
