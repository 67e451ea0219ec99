"""Every planned batch is in exactly one place of a run's status, and workers are shown as they last spoke."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.store_schema.toy_runs import EXTENTS, commit, lay_out, toy_batch, toy_record, toy_run
from vlmlake.store_schema import paths
from vlmlake.store_schema.arrays import shard_file, write_batch
from vlmlake.store_schema.finish import finish
from vlmlake.store_schema.status import run_status
from vlmlake.store_schema.storage import Storage
from vlmlake.store_schema.workers import Note, Worker, write_note

SEVEN = toy_record(extents=replace(EXTENTS, batches=7))


@pytest.fixture
def storage(tmp_path) -> Storage:
    """Batches: 0 and 5 committed, 1 lost a shard, 2 has a torn commit, 3 is being written, 4 was left, 6 missing."""
    storage = lay_out(str(tmp_path), SEVEN)
    for number in (0, 1, 2, 5):
        commit(storage, SEVEN, number)
    storage.delete(shard_file(SEVEN, SEVEN.batch_specs[2], 1))
    storage.write(paths.batch(SEVEN.name, 2), storage.read(paths.batch(SEVEN.name, 2))[:-9])
    for number in (3, 4):
        write_batch(storage, SEVEN, number, toy_batch(SEVEN, number))
    write_note(storage, SEVEN.name, Note(Worker(1, 2), batch=3, committed=2, bytes=1234))
    write_note(storage, SEVEN.name, Note(Worker(0, 2), batch=None, committed=1, bytes=99))
    return storage


def test_every_batch_is_in_one_place(storage):
    status = run_status(storage, SEVEN)
    assert (status.run, status.planned, status.finished) == (SEVEN.name, 7, False)
    assert status.committed == (0, 5)
    assert list(status.broken) == [1, 2]
    assert "attention/c.1.0.0.0.0 is missing" in status.broken[1]
    assert "checksum" in status.broken[2]
    assert (status.writing, status.left_over, status.missing) == ((3,), (4,), (6,))
    assert status.examples == 10
    shards = [storage.length(shard_file(SEVEN, spec, number)) for spec in SEVEN.batch_specs for number in (0, 5)]
    assert status.bytes == sum(shards)


def test_workers_are_shown_as_they_last_spoke(storage):
    first, second = sorted(run_status(storage, SEVEN).workers, key=lambda one: one.worker.number)
    assert (str(first.worker), first.owned, first.committed) == ("0/2", 4, 1)
    assert (first.passed, first.bytes, first.writing) == (1, 99, None)
    assert (str(second.worker), second.owned, second.committed) == ("1/2", 3, 1)
    assert (second.passed, second.bytes, second.writing) == (2, 1234, 3)
    assert 0 <= first.silent < 60


def test_a_finished_run_has_no_workers_and_nothing_open(tmp_path):
    run = toy_run(str(tmp_path))
    write_note(run.storage, run.name, Note(Worker(), None, 3, 1))
    finish(run.storage, run.record)
    status = run_status(run.storage, run.record)
    assert status.finished
    assert status.committed == (0, 1, 2)
    assert not any((status.broken, status.writing, status.left_over, status.missing, status.workers))


def test_looking_changes_nothing(storage):
    before = {path: storage.read(path) for path in storage.files("")}
    run_status(storage, SEVEN)
    assert {path: storage.read(path) for path in storage.files("")} == before
