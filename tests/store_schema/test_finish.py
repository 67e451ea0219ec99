"""Finished runs and the index of a lake."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.store_schema.toy import FEW_ARRAYS, commit, new_run, record
from tests.store_schema.turns import take_turns
from vlmlake import open_lake
from vlmlake.errors import DamagedError, DamageWarning, VlmlakeError
from vlmlake.store_schema import paths, seals, tables
from vlmlake.store_schema.batch_list import encode_batch_list, read_batch_list
from vlmlake.store_schema.commits import batch_files, look, visible, withdraw
from vlmlake.store_schema.finish import finish, is_finished
from vlmlake.store_schema.index import Index, is_finding, listed_index, refresh_index, written_index
from vlmlake.store_schema.storage import Storage
from vlmlake.store_schema.workers import Note, Worker, read_notes, write_note

PLANNED = record(arrays=FEW_ARRAYS)
OTHER = record(arrays=FEW_ARRAYS, model="other")


@pytest.fixture
def storage():
    storage = Storage.at(f"memory://{uuid4().hex}")
    for planned in (PLANNED, OTHER):
        new_run(storage, planned)
        for number in range(3):
            commit(storage, planned, number, seed=number)
    return storage


def contents(storage: Storage) -> dict[str, bytes]:
    found = {path: storage.read(path) for path in storage.files(".")}
    assert found
    return found


def test_a_run_with_missing_batches_is_not_finished_and_told_how_many_it_has(storage):
    withdraw(storage, PLANNED, [0, 2])
    before = contents(storage)
    with pytest.raises(VlmlakeError, match=r"run toy-\w+ of memory://\w+ has 1 of 3 batches: `vlmlake extract`"):
        finish(storage, PLANNED)
    assert contents(storage) == before


def test_a_run_with_a_broken_batch_is_not_finished_and_told_why(storage):
    storage.write(f"{paths.arrays(PLANNED.name)}/token_role/c.1.0", b"")
    with pytest.raises(VlmlakeError, match=r"has 2 of 3 batches; batch 1 is broken: .*c\.1\.0 has 0 bytes, its commit"):
        finish(storage, PLANNED)
    assert not is_finished(storage, PLANNED.name)


def test_a_finished_run_reads_the_same_from_one_file(storage):
    before = visible(storage, PLANNED)
    write_note(storage, PLANNED.name, Note(Worker(), 1, 1, 1))
    finish(storage, PLANNED)
    assert is_finished(storage, PLANNED.name)
    assert read_notes(storage, PLANNED.name) == []
    listed = read_batch_list(storage, PLANNED)
    assert {number: commit.shards for number, (_, commit) in listed.items()} == {
        number: commit.shards for number, commit in before.items()
    }
    assert all(listed[number][1].rows.equals(commit.rows) for number, commit in before.items())
    assert {number: size for number, (size, _) in listed.items()} == batch_files(storage, PLANNED)
    assert list(look(storage, PLANNED).committed) == list(look(storage, PLANNED, fresh=True).committed) == [0, 1, 2]


def test_finishing_again_changes_nothing(storage):
    finish(storage, PLANNED)
    before = contents(storage)
    finish(storage, PLANNED)
    assert contents(storage) == before


@settings(max_examples=20, deadline=None)
@given(schedule=st.lists(st.integers(0, 1), max_size=60))
def test_two_that_finish_at_once_write_the_same(schedule):
    storages = [Storage.at(f"memory://{uuid4().hex}") for _ in range(2)]
    for storage in storages:
        new_run(storage, PLANNED)
        for number in range(3):
            commit(storage, PLANNED, number, seed=number)
    together, alone = storages
    take_turns([lambda: finish(together, PLANNED)] * 2, schedule)
    finish(alone, PLANNED)
    assert contents(together) == contents(alone)


def test_threads_that_finish_at_once_write_the_same(tmp_path):
    storage = Storage.at(str(tmp_path))
    new_run(storage, PLANNED)
    for number in range(3):
        commit(storage, PLANNED, number, seed=number)
    finish(storage, PLANNED)
    before = contents(storage)
    storage.delete(paths.batch_list(PLANNED.name))
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(finish, storage, PLANNED) for _ in range(8)]:
            done.result()
    assert contents(storage) == before


@settings(max_examples=40, deadline=None)
@given(schedule=st.lists(st.integers(0, 1), max_size=80))
def test_two_runs_finished_at_once_are_both_in_the_index(schedule):
    storage = finished_lake()
    for planned in (PLANNED, OTHER):
        storage.delete(paths.batch_list(planned.name))
    storage.delete(paths.INDEX)
    take_turns([lambda planned=planned: finish(storage, planned) for planned in (PLANNED, OTHER)], schedule)
    assert set(written_index(storage).runs) == {PLANNED.name, OTHER.name}


_lakes: list[Storage] = []


def finished_lake() -> Storage:
    """One lake of two runs that all examples share."""
    if not _lakes:
        storage = Storage.at(f"memory://{uuid4().hex}")
        for planned in (PLANNED, OTHER):
            new_run(storage, planned)
            for number in range(3):
                commit(storage, planned, number, seed=number)
        _lakes.append(storage)
    return _lakes[0]


def test_a_list_that_is_written_late_gives_way_to_what_is_there(storage, monkeypatch):
    """While one is about to write its list another puts a batch anew, of another content, and finishes."""
    real, waiting = Storage.write, [True]

    def delayed(self, path, content):
        if path == paths.batch_list(PLANNED.name) and waiting:
            waiting.clear()
            withdraw(storage, PLANNED, [1])
            commit(storage, PLANNED, 1, seed=9)
            finish(storage, PLANNED)
        real(self, path, content)

    monkeypatch.setattr(Storage, "write", delayed)
    finish(storage, PLANNED)
    assert look(storage, PLANNED).committed.keys() == {0, 1, 2}
    listed = read_batch_list(storage, PLANNED)
    fresh = look(storage, PLANNED, fresh=True).committed
    assert {number: one.shards for number, (_, one) in listed.items()} == {n: one.shards for n, one in fresh.items()}


def test_a_run_that_loses_a_batch_while_it_is_finished_is_not(storage, monkeypatch):
    real = Storage.write

    def robbed(self, path, content):
        real(self, path, content)
        if path == paths.batch_list(PLANNED.name):
            self.delete(paths.batch(PLANNED.name, 2))

    monkeypatch.setattr(Storage, "write", robbed)
    with pytest.raises(VlmlakeError, match="has 2 of 3 batches"):
        finish(storage, PLANNED)
    assert not is_finished(storage, PLANNED.name)


def test_a_lost_shard_is_warned_of(storage):
    finish(storage, PLANNED)
    storage.delete(f"{paths.arrays(PLANNED.name)}/token_role/c.1.0")
    with pytest.warns(DamageWarning, match=r"batch 1 of toy-\w+ is left out: .*c\.1\.0 is missing"):
        assert visible(storage, PLANNED).keys() == {0, 2}


def test_the_batch_list_of_another_run_is_refused(storage):
    finish(storage, OTHER)
    storage.write(paths.batch_list(PLANNED.name), storage.read(paths.batch_list(OTHER.name)))
    with pytest.raises(DamagedError, match=rf"is that of the run {OTHER.name}: remove it, `vlmlake finish` makes it"):
        visible(storage, PLANNED)


def test_a_batch_list_whose_footer_says_nothing_is_refused(storage):

    for footer in (
        {"run": PLANNED.name},
        {"run": PLANNED.name, "batches": "{}"},
        {"run": PLANNED.name, "batches": "[1]"},
    ):
        storage.write(paths.batch_list(PLANNED.name), tables.encode(tables.BATCH.empty_table(), footer))
        if footer.get("batches") == "{}":
            assert list(visible(storage, PLANNED)) == [0, 1, 2]
        else:
            with pytest.raises(DamagedError, match="does not say what the batches are"):
                visible(storage, PLANNED)


def test_a_batch_list_of_old_lengths_is_not_believed(storage):
    state = look(storage, PLANNED)
    lies = {number: replace(commit, shards={}) for number, commit in state.committed.items()}
    sizes = {number: size + 1 for number, size in batch_files(storage, PLANNED).items()}
    storage.write(paths.batch_list(PLANNED.name), encode_batch_list(PLANNED.name, lies, sizes))
    assert visible(storage, PLANNED) == state.committed


def test_the_index_names_finished_runs_and_results(storage):
    finish(storage, PLANNED)
    result = paths.finding("results", "accuracy", PLANNED.name, "yes-no")
    storage.write(result, b"")
    refresh_index(storage)
    assert written_index(storage) == Index((PLANNED.name,), (result,))
    assert listed_index(storage) == Index((OTHER.name, PLANNED.name), (result,))


def test_folders_with_names_that_no_run_has_are_not_looked_at(storage):
    for name in ("\x1b[31mred", ".hidden", "-rf", "with space", "ünlich"):
        storage.write(paths.run_record(name), b"{}")
        storage.write(f"results/accuracy/{name}/yes-no.parquet", b"")
        storage.write(f"results/{name}/toy/yes-no.parquet", b"")
    assert listed_index(storage) == Index((OTHER.name, PLANNED.name), ())
    assert open_lake(storage.url).runs == (OTHER.name, PLANNED.name)


@pytest.mark.parametrize(
    "name", ["../other", "..", ".", "a/b", "/etc", "\x1b[31m", "a\nb", "a\n", "", "-x", "a b", "a\x00"]
)
def test_an_index_that_leads_elsewhere_is_refused(storage, name):
    for fields in (
        {"runs": [name], "findings": []},
        {"runs": [], "findings": [f"results/accuracy/{name}/yes-no.parquet"]},
        {"runs": [], "findings": [f"results/accuracy/run/{name}"]},
        {"runs": [], "findings": [name]},
    ):
        storage.write(paths.INDEX, seals.sealed(json.dumps({**fields, "seal": seals.BLANK}).encode()))
        with pytest.raises(DamagedError, match=r"index.json of .* names files outside its folders"):
            written_index(storage)


@pytest.mark.parametrize("fields", [[], {}, {"runs": []}, {"runs": 3, "findings": []}, {"runs": [3], "findings": []}])
def test_an_index_of_another_form_is_damaged(storage, fields):
    told = {**fields, "seal": seals.BLANK} if isinstance(fields, dict) else [{"seal": seals.BLANK}]
    storage.write(paths.INDEX, seals.sealed(json.dumps(told).encode()))
    with pytest.raises(DamagedError, match=r"index.json of .* is damaged: \w+Error"):
        written_index(storage)


def test_a_missing_index_says_who_writes_it(storage):
    storage.delete(paths.INDEX)
    with pytest.raises(DamagedError, match=r"there is no index.json of .*: `vlmlake finish` writes it"):
        written_index(storage)


@pytest.mark.parametrize(
    ("path", "is_one"),
    [
        ("results/accuracy/toy-1/yes-no.parquet", True),
        ("results/accuracy/toy-1/yes-no.json", False),
        ("results/accuracy/yes-no.parquet", False),
        ("results/a/b/c/d.parquet", False),
        ("runs/a/b/c.parquet", False),
        ("results/../b/c.parquet", False),
        ("results/a/b/.parquet", False),
    ],
)
def test_results_lie_in_three_folders(path, is_one):
    assert is_finding(path) == is_one
