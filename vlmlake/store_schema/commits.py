"""Commits: what is visible, what is missing, what is broken. A batch's Parquet file, created after its shards, commits
it.

Nobody holds a lock. Two writers of one batch end with the shards of one of them: only one can create the commit, which
says what its shards are; the other finds it, and where its own shards are not the same it withdraws that commit, since
it may have overwritten some, and puts all of its own again.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from vlmlake.errors import DamagedError, DamageWarning, VlmlakeError
from vlmlake.store_schema import paths, tables
from vlmlake.store_schema.arrays import Arrays, shard_file, write_batch, write_once
from vlmlake.store_schema.batch_list import read_batch_list, remove_batch_list
from vlmlake.store_schema.commit import Commit
from vlmlake.store_schema.commit_rows import require_own_rows
from vlmlake.store_schema.metadata import write_documents
from vlmlake.store_schema.run_record import RunRecord, read_record
from vlmlake.store_schema.storage import Storage

BATCH_FILE = re.compile(r"(\d{6,})\.parquet")
SHARD_FILE = re.compile(r"c\.(\d+)(\.0)*")

ROUNDS = 10
"""How often a writer puts a batch while others put it otherwise."""


@dataclass(frozen=True)
class State:
    """What there is of a run. committed: visible batches, ascending. broken: batches whose commit is there and cannot
    be used, and why; damaged: those of them whose commit itself is at fault. begun: batches of which there are shards
    and no commit: being written, or left by a writer that died.
    """

    committed: Mapping[int, Commit]
    broken: Mapping[int, str]
    damaged: frozenset[int]
    begun: frozenset[int]


def run_exists(storage: Storage, record: RunRecord) -> bool:
    """Whether the run is laid out already. Raises VlmlakeError if the one that is there was planned otherwise."""
    if not storage.exists(paths.run_record(record.name)):
        return False
    there = read_record(storage, record.name)
    if replace(there, versions={}) != replace(record, versions={}):
        raise VlmlakeError(
            f"run {record.name} of {storage.url} was planned otherwise, by {dict(there.versions)}: "
            f"use those versions, or remove {paths.run_record(record.name)} and its folder"
        )
    return True


def create_run(storage: Storage, record: RunRecord, once: Arrays, vocabulary: Sequence[str]) -> None:
    """Lay out a new run, its record last; several workers may do so at once.

    once: `unembedding` and `final_norm`. vocabulary: the text of every token id.

    Raises VlmlakeError if another worker has laid it out otherwise in the meantime.
    """
    write_documents(storage, record)
    write_once(storage, record, once)
    words = [{"id": number, "text": text} for number, text in enumerate(vocabulary)]
    storage.write(paths.vocabulary(record.name), tables.to_parquet(words, tables.VOCABULARY))
    if not storage.create(paths.run_record(record.name), record.to_json()):
        run_exists(storage, record)


def record_skipped(storage: Storage, run: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Say which examples a pass left out, in place of what an earlier one said. rows: of tables.SKIPPED."""
    if rows or storage.exists(paths.skipped(run)):
        storage.write(paths.skipped(run), tables.to_parquet(rows, tables.SKIPPED))


def look(storage: Storage, record: RunRecord, fresh: bool = False) -> State:
    """What there is now; `fresh` reads every commit, though a finished run's list has them.

    A batch is visible if and only if its commit is whole and all its shards are there, as long as the commit says.
    Other files in the folders are not looked at.

    Of a web server, which lists nothing, what the finished run's batch list says. Raises VlmlakeError if there is none.
    """
    listed = None if fresh else read_batch_list(storage, record)
    if not storage.listable:
        if listed is None:
            raise VlmlakeError(
                f"run {record.name} of {storage.url} is not finished: over the web only finished runs can be read"
            )
        return State({number: commit for number, (_, commit) in listed.items()}, {}, frozenset(), frozenset())
    files = batch_files(storage, record)
    commits = {
        number: listed[number][1] for number, size in files.items() if listed and listed.get(number, (0,))[0] == size
    }
    damage = _read_commits(storage, record, files.keys() - commits.keys(), commits)
    shards = _shards(storage, record)
    broken = {number: why for number, commit in commits.items() if (why := _lost(record, commit, shards))}
    begun = {number for sizes in shards.values() for number in sizes} - files.keys()
    return State(
        committed={number: commits[number] for number in sorted(commits) if number not in broken},
        broken=broken | damage,
        damaged=frozenset(damage),
        begun=frozenset(number for number in begun if number < record.extents.batches),
    )


def visible(storage: Storage, record: RunRecord) -> Mapping[int, Commit]:
    """The visible batches' commits, ascending; a DamageWarning for each that lost a shard.

    Raises DamagedError if a commit is damaged or another run's.
    """
    state = look(storage, record)
    for number in sorted(state.damaged):
        raise DamagedError(f"{state.broken[number]}; `vlmlake extract` computes that batch again")
    for number, why in state.broken.items():
        told = f"batch {number} of {record.name} is left out: {why}; `vlmlake extract` computes it again"
        warnings.warn(told, DamageWarning, stacklevel=2)
    return state.committed


def rows_of(commits: Mapping[int, Commit]) -> pa.Table:
    """Rows of tables.BATCH of several commits, in their order."""
    return pa.concat_tables([tables.BATCH.empty_table(), *(commit.rows for commit in commits.values())])


def withdraw(storage: Storage, record: RunRecord, numbers: Iterable[int]) -> None:
    """Take back the commits of these batches, so that the next pass computes them again."""
    for number in numbers:
        remove_batch_list(storage, record.name)
        storage.delete(paths.batch(record.name, number))


def commit_batch(
    storage: Storage,
    record: RunRecord,
    number: int,
    arrays: Arrays,
    rows: Sequence[Mapping[str, Any]],
    threads: int | None = None,
) -> int:
    """Write a batch's shards, each safe once it is put, then make the batch visible; returns the bytes written, 0 where
    another writer has committed it in the meantime.

    rows: one mapping per example with the columns of `tables.BATCH`. threads: of the encoder.
    """

    def put() -> Commit:
        return Commit.of(record.name, number, write_batch(storage, record, number, arrays, threads), rows)

    return commit_shards(storage, record, number, put)


def commit_shards(storage: Storage, record: RunRecord, number: int, put: Callable[[], Commit]) -> int:
    """The same with the shards that `put` puts; it says what the commit is, and is called again where another writer
    puts other ones.
    """
    path, written = paths.batch(record.name, number), 0
    if _commit_there(storage, record, number):
        return 0
    # What a batch list says of a commit that is gone would pass for the new one's, if that is as long.
    remove_batch_list(storage, record.name)
    for _ in range(ROUNDS):
        commit = put()
        content = commit.encode()
        written += commit.bytes + len(content)
        if storage.create(path, content):
            return written
        other = _commit_there(storage, record, number)
        if other and other.shards == commit.shards:
            return written
        withdraw(storage, record, [number])
    raise VlmlakeError(
        f"batch {number} of {record.name} was written otherwise by others {ROUNDS} times: give every worker its own "
        "--worker I/N"
    )


def _commit_there(storage: Storage, record: RunRecord, number: int) -> Commit | None:
    """The commit, if there is one that is whole."""
    path = paths.batch(record.name, number)
    try:
        return Commit.decode(storage.read(path), record.name, number, path)
    except FileNotFoundError:
        return None
    except DamagedError:
        storage.delete(path)
        return None


def batch_files(storage: Storage, record: RunRecord) -> dict[int, int]:
    """Bytes of every planned batch's commit that is there, whole or not."""
    found = {}
    for entry in storage.entries(paths.batches(record.name)):
        match = BATCH_FILE.fullmatch(entry.name)
        if match and int(match[1]) < record.extents.batches:
            found[int(match[1])] = entry.bytes
    return found


def _read_commits(
    storage: Storage, record: RunRecord, numbers: Iterable[int], commits: dict[int, Commit]
) -> dict[int, str]:
    """Add the commits of these batches; what is wrong with those that cannot be read."""
    damage = {}
    numbers = sorted(numbers)
    files = [paths.batch(record.name, number) for number in numbers]
    for number, path, content in zip(numbers, files, storage.read_present(files), strict=True):
        if content is None:
            continue  # it was withdrawn in the meantime
        try:
            commit = Commit.decode(content, record.name, number, f"{path} of {storage.url}")
            require_own_rows(record, commit, f"{path} of {storage.url}")
            commits[number] = commit
        except DamagedError as error:
            damage[number] = str(error)
    return damage


def _shards(storage: Storage, record: RunRecord) -> dict[str, dict[int, int]]:
    """Bytes of every shard by array and batch."""
    specs = record.batch_specs
    folders = [f"{paths.arrays(record.name)}/{spec.name}" for spec in specs]
    found: dict[str, dict[int, int]] = {}
    for spec, entries in zip(specs, storage.entries_of(folders), strict=True):
        matches = ((SHARD_FILE.fullmatch(entry.name), entry.bytes) for entry in entries)
        found[spec.name] = {int(match[1]): size for match, size in matches if match}
    return found


def _lost(record: RunRecord, commit: Commit, shards: Mapping[str, Mapping[int, int]]) -> str | None:
    """What is wrong with a batch's shards, as far as their names and lengths tell."""
    for spec in record.batch_specs:
        there, said = shards[spec.name].get(commit.batch), commit.shards.get(spec.name)
        path = shard_file(record, spec, commit.batch)
        if said is None:
            return f"its commit says nothing of {spec.name}"
        if there is None:
            return f"{path} is missing"
        if there != said.bytes:
            return f"{path} has {there} bytes, its commit says {said.bytes}"
    return None
