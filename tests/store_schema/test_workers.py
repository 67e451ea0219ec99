"""Which batches are whose, and what workers say of themselves."""

from __future__ import annotations

from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmlake.errors import VlmlakeError
from vlmlake.store_schema import paths
from vlmlake.store_schema.storage import Storage
from vlmlake.store_schema.workers import Note, Worker, read_notes, remove_notes, write_note


@settings(deadline=None)
@given(count=st.integers(1, 40), batches=st.integers(0, 200))
def test_every_batch_is_exactly_one_workers(count, batches):
    workers = [Worker(number, count) for number in range(count)]
    owned = [[batch for batch in range(batches) if worker.owns(batch)] for worker in workers]
    assert sorted(batch for mine in owned for batch in mine) == list(range(batches))
    assert max(map(len, owned)) - min(map(len, owned)) <= 1


def test_one_worker_owns_all():
    assert Worker() == Worker(0, 1) == Worker.parse("0/1")
    assert all(Worker().owns(batch) for batch in range(9))


@settings(deadline=None)
@given(count=st.integers(1, 1000), data=st.data())
def test_words_of_a_worker_are_read_back(count, data):
    worker = Worker(data.draw(st.integers(0, count - 1)), count)
    assert Worker.parse(str(worker)) == worker


@pytest.mark.parametrize(
    "text",
    ["", "1", "/", "1/", "/2", "a/b", "-1/4", "0/-4", "4/4", "5/4", "0/0", "1.0/2", "1/2/3", " 1/2", "²/4", "0x1/4"],
)
def test_what_is_no_worker_is_refused(text):
    with pytest.raises(VlmlakeError, match=r"expected I/N with I from 0 to N - 1, as in --worker 0/4"):
        Worker.parse(text)


@pytest.mark.parametrize(
    ("environment", "worker"),
    [
        ({}, Worker(0, 1)),
        ({"RANK": "2", "WORLD_SIZE": "4"}, Worker(2, 4)),
        ({"SLURM_PROCID": "3", "SLURM_NTASKS": "8"}, Worker(3, 8)),
        ({"RANK": "1", "WORLD_SIZE": "2", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, Worker(1, 2)),
        ({"RANK": "2", "SLURM_PROCID": "3", "SLURM_NTASKS": "8"}, Worker(3, 8)),
        ({"RANK": "2"}, Worker(0, 1)),
        ({"WORLD_SIZE": "2"}, Worker(0, 1)),
    ],
)
def test_the_launcher_says_which_worker_this_is(environment, worker):
    assert Worker.of_environment(environment) == worker


@pytest.mark.parametrize(("number", "count"), [("two", "4"), ("4", "4"), ("", ""), ("-1", "2"), ("0", "0")])
def test_an_environment_that_makes_no_sense_is_named(number, count):
    with pytest.raises(VlmlakeError, match=r"^RANK and WORLD_SIZE of the environment: worker"):
        Worker.of_environment({"RANK": number, "WORLD_SIZE": count})
    with pytest.raises(VlmlakeError, match=r"^SLURM_PROCID and SLURM_NTASKS of the environment: worker"):
        Worker.of_environment({"SLURM_PROCID": number, "SLURM_NTASKS": count})


@pytest.fixture(params=["file", "memory"])
def storage(request, tmp_path):
    return Storage.at(str(tmp_path) if request.param == "file" else f"memory://{tmp_path.name}")


def test_notes_are_read_back_with_the_storages_time(storage):
    notes = [Note(Worker(0, 2), 4, 2, 1000), Note(Worker(1, 2), None, 0, 0)]
    write_note(storage, "run", Note(Worker(0, 2), 2, 1, 500))
    for note in notes:
        write_note(storage, "run", note)
    found = read_notes(storage, "run")
    assert [note for note, _ in found] == notes
    assert all(isinstance(when, datetime) for _, when in found)
    remove_notes(storage, "run")
    assert read_notes(storage, "run") == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"worker": 1}',
        b'{"worker": {"number": 3, "count": 2}}',
        b"\xff\xfe",
        b'{"worker": {}}',
    ],
)
def test_a_note_that_cannot_be_read_is_left_out(storage, content):
    whole = Note(Worker(0, 2), 1, 1, 1)
    write_note(storage, "run", whole)
    storage.write(f"{paths.workers('run')}/1-of-2.json", content)
    storage.write(f"{paths.workers('run')}/other.txt", b"x")
    assert [note for note, _ in read_notes(storage, "run")] == [whole]


def test_removing_notes_leaves_a_file_that_is_being_written(tmp_path):
    storage = Storage.at(str(tmp_path))
    write_note(storage, "run", Note(Worker(), None, 1, 2))
    storage.write("runs/run/workers/.writing-0", b"half")
    remove_notes(storage, "run")
    assert storage.names("runs/run/workers") == (".writing-0",)
